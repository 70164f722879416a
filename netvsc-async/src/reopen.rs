//! An adapter that comes back after the host took it away: opened again.
//!
//! Hosts take an adapter away and give it back, perhaps much later and under another `/dev/uioN`: when its settings are
//! changed, when the machine is serviced or moved. Only the device's instance stays the same.
//!
//! ```text
//!  open ─► the first time: the adapter that was named ──────────────────► opened
//!    ▲     later: is its instance there and bound? ── no, or it does not open ─► pause, until patience ends ─► Absent
//!    └── used, until it is gone ◄── opened                                                                     Exhausted
//! ```

use std::fmt;
use std::time::Duration;

use vmbus::guid::Guid;
use vmbus::uio::{Selector, UioBus, UioChannel};
use vmbus::{Error as _, ErrorKind};

use crate::builder::NicBuilder;
use crate::nic::Nic;
use crate::open::OpenError;
use crate::queue::Queue;

/// How patiently an adapter is waited for that was taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReopenPolicy {
    patience: Duration,
    first_pause: Duration,
    longest_pause: Duration,
    times: Option<u32>,
}

impl Default for ReopenPolicy {
    /// As [`new`](Self::new).
    fn default() -> Self {
        Self::new()
    }
}

impl ReopenPolicy {
    /// As often as it comes back within a minute.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            patience: Duration::from_secs(60),
            first_pause: Duration::from_millis(20),
            longest_pause: Duration::from_secs(1),
            times: None,
        }
    }

    /// How long the adapter is waited for each time it was taken away; one minute by default.
    #[must_use]
    pub const fn patience(mut self, longest: Duration) -> Self {
        self.patience = longest;
        self
    }

    /// The pause after the first attempt, which doubles with each, and the longest one; 20 ms and 1 s by default.
    #[must_use]
    pub const fn pauses(mut self, first: Duration, longest: Duration) -> Self {
        self.first_pause = first;
        self.longest_pause = longest;
        self
    }

    /// How often it is opened again, the first opening not counted. Default: without limit.
    #[must_use]
    pub const fn times(mut self, times: u32) -> Self {
        self.times = Some(times);
        self
    }
}

impl NicBuilder {
    /// The adapter that [`device`](Self::device) names, to be opened now and again each time it has come back.
    ///
    /// ```no_run
    /// use netvsc_async::{Nic, ReopenPolicy};
    /// use vmbus::{Error, ErrorKind};
    ///
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// let mut adapter = Nic::builder().device("eth1").reopening(ReopenPolicy::default());
    /// loop {
    ///     let (nic, mut queues) = adapter.open().await?;
    ///     let mut queue = queues.remove(0);
    ///     let ended = loop {
    ///         match queue.rx.recv_burst().await {
    ///             Ok(Some(frames)) => println!("{} frames", frames.len()),
    ///             Ok(None) => return Ok(()),
    ///             Err(error) => break error,
    ///         }
    ///     };
    ///     if ended.kind() != ErrorKind::Gone {
    ///         return Err(ended.into());
    ///     }
    ///     // Before it is opened again: the kernel may keep it back for as long as somebody has it open.
    ///     drop(queue);
    ///     let _ = nic.close().await;
    /// }
    /// # }
    /// ```
    #[must_use]
    pub fn reopening(self, policy: ReopenPolicy) -> ReopeningNic {
        ReopeningNic { builder: self, policy, instance: None, opened: 0 }
    }
}

/// An adapter of this machine that is opened each time it has come back: [`NicBuilder::reopening`].
#[derive(Debug, Clone)]
pub struct ReopeningNic {
    builder: NicBuilder,
    policy: ReopenPolicy,
    /// Known once it was opened: the one name that it keeps.
    instance: Option<Guid>,
    opened: u32,
}

impl ReopeningNic {
    /// Opens it. The first time it has to be there; later it is waited for, by its instance, as patiently as the policy says.
    ///
    /// Close the [`Nic`] of the last time before, and drop its queues: some kernels do not offer a device again while it is
    /// open, and a device that is still there cannot be opened twice.
    ///
    /// # Errors
    /// [`ReopenError`].
    ///
    /// # Cancel safety
    /// Yes: as [`NicBuilder::open`], and what was being waited for can be waited for again.
    ///
    /// # Panics
    /// Outside a tokio runtime with time enabled.
    pub async fn open(&mut self) -> Result<(Nic<UioBus>, Vec<Queue<UioChannel>>), ReopenError> {
        let Some(instance) = self.instance else {
            return self.open_first().await.map_err(ReopenError::Open);
        };
        if let Some(times) = self.policy.times.filter(|&times| self.opened > times) {
            return Err(ReopenError::Exhausted { times });
        }
        let start = tokio::time::Instant::now();
        let mut pause = self.policy.first_pause;
        loop {
            let again = self.builder.clone().device(Selector::Instance(instance)).open().await;
            let error = match again {
                Ok(opened) => {
                    self.opened = self.opened.saturating_add(1);
                    return Ok(opened);
                }
                Err(error) if !may_pass(&error) => return Err(ReopenError::Open(error)),
                Err(error) => error,
            };
            let waited = start.elapsed();
            let left = self.policy.patience.saturating_sub(waited);
            if left.is_zero() {
                return Err(ReopenError::Absent { instance, waited, last: error });
            }
            tracing::debug!(%instance, %error, "network adapter is not back yet");
            tokio::time::sleep(pause.min(left)).await;
            pause = pause.saturating_mul(2).min(self.policy.longest_pause);
        }
    }

    async fn open_first(&mut self) -> Result<(Nic<UioBus>, Vec<Queue<UioChannel>>), OpenError> {
        let device = self.builder.find()?;
        let opened = self.builder.clone().open_device(&device).await?;
        self.instance = Some(device.instance());
        self.opened = 1;
        Ok(opened)
    }

    /// Which device it is, once it was opened.
    #[must_use]
    pub fn instance(&self) -> Option<Guid> {
        self.instance
    }

    /// How often it was opened.
    #[must_use]
    pub fn opened(&self) -> u32 {
        self.opened
    }
}

/// Whether an adapter that did not open may open later: it is not there, not bound, not ready, or was taken away again.
fn may_pass(error: &OpenError) -> bool {
    !matches!(error.kind(), ErrorKind::Misuse | ErrorKind::HostViolation)
}

/// Why an adapter was not opened, or not again.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReopenError {
    /// It did not open, and waiting would not help.
    Open(OpenError),
    /// It did not come back, or did not open since it has.
    Absent {
        /// Which device.
        instance: Guid,
        /// How long it was waited for.
        waited: Duration,
        /// What was in the way at the end.
        last: OpenError,
    },
    /// It was opened again as often as the policy allows.
    Exhausted {
        /// How often.
        times: u32,
    },
}

impl fmt::Display for ReopenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open(error) => error.fmt(f),
            Self::Absent { instance, waited, last } => {
                write!(f, "network adapter {instance} did not come back within {waited:?}: {last}")
            }
            Self::Exhausted { times } => {
                write!(f, "the network adapter was opened again {times} times, and is gone again")
            }
        }
    }
}

impl std::error::Error for ReopenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Absent { last, .. } => Some(last),
            // `Open` is its error.
            Self::Open(_) | Self::Exhausted { .. } => None,
        }
    }
}

impl vmbus::Error for ReopenError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Open(error) => error.kind(),
            Self::Absent { .. } | Self::Exhausted { .. } => ErrorKind::Gone,
        }
    }
}
