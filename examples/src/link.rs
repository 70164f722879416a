//! A stack as a task: sleeps until a frame arrives or a timer of the stack is due.

use std::future::Future;
use std::time::Duration;

use netvsc_async::smoltcp::NetvscDevice;
use smoltcp::phy::Device;
use vmbus::bus::Channel;

use crate::stack::{Application, Stack};

/// A device that a task can wait for.
pub trait Link: Device {
    /// What ends the link.
    type Error;

    /// Makes the other side notice what was sent: called once after each turn, so that a batch costs one notice.
    ///
    /// # Errors
    /// The link is gone.
    fn flush(&mut self) -> Result<(), Self::Error>;

    /// Waits until frames can be received, or sent again, or `timeout` is over. May return early.
    fn ready(&mut self, timeout: Option<Duration>) -> impl Future<Output = Result<(), Self::Error>> + Send;
}

impl<C: Channel + Send + 'static> Link for NetvscDevice<C> {
    type Error = netvsc_async::Error;

    fn flush(&mut self) -> Result<(), Self::Error> {
        self.flush()
    }

    async fn ready(&mut self, timeout: Option<Duration>) -> Result<(), Self::Error> {
        self.ready(timeout).await
    }
}

/// Runs a stack until its application is done. `clock` gives the time since an epoch of the caller's.
///
/// # Errors
/// What ended the link.
///
/// # Cancel safety
/// Frames and connections stay in the stack: it can be run again.
pub async fn run<D: Link>(
    stack: &mut Stack<D>,
    app: &mut (impl Application + Send),
    clock: impl Fn() -> Duration,
) -> Result<(), D::Error> {
    loop {
        let turn = stack.turn(clock(), app);
        stack.device_mut().flush()?;
        if app.is_done() {
            return Ok(());
        }
        if turn.busy {
            tokio::task::yield_now().await;
        } else {
            // No time left although there was nothing to do: the device is full. It says when that changes, or is
            // asked again soon.
            let timeout = turn.next.map(|next| next.max(FULL_DEVICE_RETRY));
            stack.device_mut().ready(timeout).await?;
        }
    }
}

const FULL_DEVICE_RETRY: Duration = Duration::from_micros(100);
