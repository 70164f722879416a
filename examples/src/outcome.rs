//! What an appliance says at its end: one JSON object for scripts, and whether all went well.

use serde::Serialize;

use crate::client::{FetchError, Fetched, Progress};

/// The outcome of a run. Its field names are those of the JSON object.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Outcome {
    /// Bytes of content that were transferred.
    pub bytes: u64,
    /// Whether they arrived as they were sent; `null` if nobody here received them.
    pub hash_ok: Option<bool>,
    /// How fast they were, in 10⁹ bits of content a second; `null` as above.
    pub gbits_per_s: Option<f64>,
    /// Time from the first byte to the last; `null` as above.
    pub seconds: Option<f64>,
    /// The host's profile.
    pub profile: String,
    /// The NVSP version agreed on.
    pub nvsp_version: String,
    /// Send sections there were, whatever was asked for.
    pub send_sections: u32,
    /// Receive sections there were.
    pub receive_sections: u32,
    /// The adapter's MTU.
    pub mtu: u32,
    /// The fault that was injected.
    pub fault: Option<String>,
    /// Frames that the adapter sent.
    pub tx_packets: u64,
    /// Their bytes.
    pub tx_bytes: u64,
    /// Frames that the adapter received.
    pub rx_packets: u64,
    /// Their bytes.
    pub rx_bytes: u64,
    /// Frames that the adapter accepted and could not send, or the host did not take.
    pub tx_dropped: u64,
    /// Frames to the adapter that were lost at the host or in the adapter.
    pub rx_dropped: u64,
    /// What either side did against the protocol, as the other one counted it.
    pub protocol_violations: u64,
    /// Sections, packets, buffers and channels that one side did not give back to the other.
    pub leaks: u64,
    /// What ended the run early.
    pub error: Option<String>,
    /// Which kind of error that was, if scripts may do something about it: `gone` if the host took the adapter away.
    pub error_kind: Option<&'static str>,
}

impl Outcome {
    /// Whether all went well.
    pub fn is_ok(&self) -> bool {
        self.error.is_none()
            && self.hash_ok != Some(false)
            && [self.tx_dropped, self.rx_dropped, self.protocol_violations, self.leaks] == [0; 4]
    }

    /// Notes a transfer that came to its end.
    pub fn received(&mut self, fetched: &Fetched) {
        let Progress { received, elapsed, .. } = fetched.progress;
        self.bytes = received;
        self.hash_ok = Some(fetched.hash_ok());
        self.gbits_per_s = Some(fetched.progress.gbits_per_s());
        self.seconds = Some(elapsed.as_secs_f64());
    }

    /// Notes a transfer that did not.
    pub fn failed_transfer(&mut self, error: &FetchError) {
        self.hash_ok = Some(false);
        self.fail(format!("the transfer failed: {error}"));
    }

    /// Notes what went wrong; the first error stays, later ones mostly follow from it.
    pub fn fail(&mut self, error: impl std::fmt::Display) {
        self.error.get_or_insert_with(|| error.to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_failure_counts() {
        let good = Outcome { hash_ok: Some(true), ..Outcome::default() };
        assert!(good.is_ok());
        assert!(Outcome::default().is_ok(), "nobody received: nothing to compare");
        let failures: [fn(&mut Outcome); 6] = [
            |o| o.hash_ok = Some(false),
            |o| o.tx_dropped = 1,
            |o| o.rx_dropped = 1,
            |o| o.protocol_violations = 1,
            |o| o.leaks = 1,
            |o| o.fail("late"),
        ];
        for fail in failures {
            let mut bad = good.clone();
            fail(&mut bad);
            assert!(!bad.is_ok(), "{bad:?}");
        }
    }
}
