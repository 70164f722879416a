//! Late answers.

use core::time::Duration;

use super::state::{ChannelState, Deadline, GpadlState, Modify, Offers, State};
use super::{Client, ConnectFailure, Event, Exchange};

impl Client {
    /// When to call [`Client::handle_timeout`], if nothing else happens. Poll after every other call.
    pub fn poll_timeout(&self) -> Option<Duration> {
        let retry = self.outbox.poll_timeout();
        let answer = match &self.state {
            State::Disconnected => None,
            State::Connecting { deadline, .. } => Some(*deadline),
            State::Unloading { deadline, .. } => *deadline,
            State::Connected(connection) => {
                let offers = match connection.offers {
                    Offers::Requested { deadline } => deadline,
                    Offers::Delivered => None,
                };
                let channels = connection.channels.values().filter_map(|channel| match channel.state {
                    ChannelState::Opening { deadline, .. } => deadline,
                    ChannelState::Open { modify: Some(Modify { deadline, .. }), .. } => deadline,
                    _ => None,
                });
                let gpadls = connection.gpadls.values().filter_map(|gpadl| match gpadl.state {
                    GpadlState::Creating { deadline, .. } | GpadlState::TearingDown { deadline } => deadline,
                    GpadlState::Ready | GpadlState::Void => None,
                });
                offers.into_iter().chain(channels).chain(gpadls).min()
            }
        };
        retry.into_iter().chain(answer).min()
    }

    /// Reports what is late at `now` ([`Event::TimedOut`], once for each question), and posts again what was refused for
    /// a while.
    ///
    /// An attempt to connect that is late has failed.
    pub fn handle_timeout(&mut self, now: Duration) {
        self.outbox.handle_timeout(now);
        let events = &mut self.events;
        let mut report = |exchange| events.push_back(Event::TimedOut(exchange));
        match &mut self.state {
            State::Disconnected => {}
            State::Connecting { version, deadline } => {
                if *deadline <= now {
                    let failure = ConnectFailure::TimedOut { version: *version };
                    self.disconnect();
                    self.events.push_back(Event::ConnectFailed(failure));
                }
            }
            State::Unloading { deadline, .. } => {
                if expire(deadline, now) {
                    report(Exchange::Unload);
                }
            }
            State::Connected(connection) => {
                if let Offers::Requested { deadline } = &mut connection.offers
                    && expire(deadline, now)
                {
                    report(Exchange::Offers);
                }
                for (&relid, channel) in &mut connection.channels {
                    let (deadline, exchange) = match &mut channel.state {
                        ChannelState::Opening { deadline, .. } => (deadline, Exchange::Open { relid }),
                        ChannelState::Open { modify: Some(modify), .. } => {
                            (&mut modify.deadline, Exchange::Modify { relid })
                        }
                        _ => continue,
                    };
                    if expire(deadline, now) {
                        report(exchange);
                    }
                }
                for (&gpadl, entry) in &mut connection.gpadls {
                    let relid = entry.relid;
                    let (deadline, exchange) = match &mut entry.state {
                        GpadlState::Creating { deadline, .. } => (deadline, Exchange::CreateGpadl { relid, gpadl }),
                        GpadlState::TearingDown { deadline } => (deadline, Exchange::TearDownGpadl { relid, gpadl }),
                        GpadlState::Ready | GpadlState::Void => continue,
                    };
                    if expire(deadline, now) {
                        report(exchange);
                    }
                }
            }
        }
    }
}

/// Whether the deadline has passed and was not reported yet.
fn expire(deadline: &mut Deadline, now: Duration) -> bool {
    deadline.take_if(|at| *at <= now).is_some()
}
