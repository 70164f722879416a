//! Which backends live, and where they are.
//!
//! Each is asked for its MAC address again and again, as any station asks for its neighbours. Who does not answer some
//! questions in a row gets no flows until it answers again. That is as much as a balancer of this kind needs to know;
//! whether the service itself answers is for a health check of your own, which then calls
//! [`Balancer::set_living`].

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};

use crate::balancer::Balancer;
use crate::wire::{self, Mac};

/// Questions without an answer after which a backend is taken for dead.
const MISSED: u32 = 3;

/// The task that looks after backends.
#[derive(Debug)]
pub(crate) struct Neighbours {
    balancer: Arc<Balancer>,
    answers: mpsc::Receiver<(IpAddr, Mac)>,
    questions: mpsc::Sender<Vec<u8>>,
    interval: Duration,
    /// By index.
    known: Vec<Known>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Known {
    mac: Option<Mac>,
    /// Questions since the last answer.
    missed: u32,
}

impl Neighbours {
    /// What `answers` say is what backends answer to the questions that come out of the other value.
    pub(crate) fn new(
        balancer: Arc<Balancer>,
        answers: mpsc::Receiver<(IpAddr, Mac)>,
        interval: Duration,
    ) -> (Self, Option<mpsc::Receiver<Vec<u8>>>) {
        let (questions, to_send) = mpsc::channel(64);
        let known = vec![Known::default(); balancer.config().backends.len()];
        (Self { balancer, answers, questions, interval, known }, Some(to_send))
    }

    /// Goes on until the queues have ended.
    pub(crate) async fn look_after(mut self) -> anyhow::Result<()> {
        let mut ticks = tokio::time::interval_at(Instant::now(), self.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let changed = tokio::select! {
                _ = ticks.tick() => self.ask().await,
                answer = self.answers.recv() => match answer {
                    Some((address, mac)) => self.learn(address, mac),
                    None => return Ok(()),
                },
            };
            if changed {
                self.balancer.set_living(self.known.iter().map(|known| known.mac).collect());
            }
        }
    }

    /// Asks all; whether one of them was given up.
    async fn ask(&mut self) -> bool {
        let config = self.balancer.config();
        let mut changed = false;
        for (address, known) in config.backends.iter().zip(&mut self.known) {
            if known.missed == MISSED && known.mac.take().is_some() {
                eprintln!("{address} does not answer: it gets no flows");
                changed = true;
            }
            known.missed = (known.missed + 1).min(MISSED);
            let own = config.own.iter().find(|own| own.is_ipv4() == address.is_ipv4());
            let Some(question) = own.and_then(|own| wire::question(config.mac, *own, *address)) else { continue };
            // An adapter that takes no frames is one whose backends are not heard of either.
            let _ = self.questions.try_send(question);
        }
        changed
    }

    /// A backend answered; whether that was news.
    fn learn(&mut self, address: IpAddr, mac: Mac) -> bool {
        let backends = &self.balancer.config().backends;
        let Some(known) = backends.iter().position(|backend| *backend == address).map(|at| &mut self.known[at]) else {
            return false;
        };
        known.missed = 0;
        let news = known.mac.replace(mac) != Some(mac);
        if news {
            let [a, b, c, d, e, f] = mac;
            eprintln!("{address} is at {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}");
        }
        news
    }
}
