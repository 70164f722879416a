//! A capture file as a port of the switch: its frames are sent once, at the times that stand in it.
//!
//! Both forms are read, pcap and pcapng, with link type Ethernet (draft-ietf-opsawg-pcap, draft-ietf-opsawg-pcapng). The
//! whole file is kept in memory. What the switch delivers is counted and dropped.

use core::fmt;
use core::time::Duration;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use pcap_parser::{Block, Linktype, PcapBlockOwned, PcapError};

use super::{Frame, Port};

/// Bytes of the reader's window: longer than any frame of a capture.
const WINDOW: usize = 1 << 18;
/// Most bytes of frames that are kept.
const MAX_BYTES: usize = 1 << 30;

/// Why a capture file cannot be played.
#[derive(Debug)]
#[non_exhaustive]
pub enum PcapPortError {
    /// It cannot be read.
    Read {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It is no capture file, or a damaged one.
    Format {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        text: String,
    },
    /// It does not hold Ethernet frames.
    LinkType {
        /// Which.
        path: PathBuf,
        /// What it holds instead.
        value: i32,
    },
    /// It is larger than what is kept in memory.
    TooLong {
        /// Which.
        path: PathBuf,
        /// Most bytes of frames.
        limit: usize,
    },
}

impl fmt::Display for PcapPortError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read { path, .. } => write!(f, "cannot read capture file {}", path.display()),
            Self::Format { path, text } => write!(f, "capture file {}: {text}", path.display()),
            Self::LinkType { path, value } => {
                write!(f, "capture file {}: link type {value} is not Ethernet", path.display())
            }
            Self::TooLong { path, limit } => {
                write!(f, "capture file {}: more than {limit} bytes of frames", path.display())
            }
        }
    }
}

impl core::error::Error for PcapPortError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Read { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// Plays a capture file.
#[derive(Debug)]
pub struct PcapPort {
    /// All frames, one behind the other.
    bytes: Vec<u8>,
    frames: Vec<Recorded>,
    next: usize,
    start: Option<Duration>,
    received: Arc<AtomicU64>,
}

#[derive(Debug, Clone, Copy)]
struct Recorded {
    /// Since the first frame.
    at: Duration,
    start: usize,
    len: usize,
}

impl PcapPort {
    /// Reads the file. Playing begins with the first poll.
    ///
    /// # Errors
    /// [`PcapPortError`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, PcapPortError> {
        let path = path.as_ref();
        let file = File::open(path).map_err(|source| PcapPortError::Read { path: path.into(), source })?;
        Self::read(path, file)
    }

    fn read(path: &Path, file: impl io::Read + Send) -> Result<Self, PcapPortError> {
        let format = |text: String| PcapPortError::Format { path: path.into(), text };
        let mut reader = pcap_parser::create_reader(WINDOW, file).map_err(|error| format(error.to_string()))?;
        let mut recording = Recording::default();
        loop {
            let exhausted = reader.reader_exhausted();
            match reader.next() {
                Ok((consumed, block)) => {
                    recording.add(&block).map_err(|refused| match refused {
                        Refused::LinkType(value) => PcapPortError::LinkType { path: path.into(), value },
                        Refused::TooLong => PcapPortError::TooLong { path: path.into(), limit: MAX_BYTES },
                        Refused::Interface(number) => format(format!("interface {number} was not described")),
                    })?;
                    reader.consume(consumed);
                }
                Err(PcapError::Eof) => break,
                Err(PcapError::Incomplete(_)) if exhausted => {
                    return Err(format("ends in the middle of a frame".into()));
                }
                Err(PcapError::Incomplete(_)) => reader.refill().map_err(|error| format(error.to_string()))?,
                Err(error) => return Err(format(error.to_string())),
            }
        }
        let Recording { bytes, frames, .. } = recording;
        Ok(Self { bytes, frames, next: 0, start: None, received: Arc::default() })
    }

    /// How many frames the file has.
    pub fn frames(&self) -> usize {
        self.frames.len()
    }

    /// How many frames the switch has delivered; shared with the port.
    pub fn received(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.received)
    }

    fn due_at(&self) -> Option<Duration> {
        Some(self.start.unwrap_or_default() + self.frames.get(self.next)?.at)
    }
}

impl Port for PcapPort {
    fn deliver(&mut self, _frame: Frame<'_>) -> bool {
        self.received.fetch_add(1, Ordering::Relaxed);
        true
    }

    fn poll(&mut self, now: Duration, budget: usize, out: &mut dyn FnMut(Frame<'_>)) -> usize {
        self.start.get_or_insert(now);
        let mut given = 0;
        while given < budget && self.due_at().is_some_and(|at| at <= now) {
            let Recorded { start, len, .. } = self.frames[self.next];
            out(Frame::new(&self.bytes[start..start + len]));
            self.next += 1;
            given += 1;
        }
        given
    }

    fn next_timeout(&self, now: Duration) -> Option<Duration> {
        self.due_at().map(|at| at.saturating_sub(now))
    }
}

enum Refused {
    LinkType(i32),
    Interface(u32),
    TooLong,
}

/// An interface of a pcapng section: its unit of time.
#[derive(Debug, Clone, Copy)]
struct Interface {
    units_per_second: u64,
}

#[derive(Debug, Default)]
struct Recording {
    bytes: Vec<u8>,
    frames: Vec<Recorded>,
    interfaces: Vec<Interface>,
    /// Of the classic form.
    nanoseconds: bool,
    first: Option<Duration>,
}

impl Recording {
    fn add(&mut self, block: &PcapBlockOwned<'_>) -> Result<(), Refused> {
        match block {
            PcapBlockOwned::LegacyHeader(header) => {
                self.nanoseconds = header.is_nanosecond_precision();
                ethernet(header.network)
            }
            PcapBlockOwned::Legacy(frame) => {
                let unit = if self.nanoseconds { 1 } else { 1000 };
                let nanos = u64::from(frame.ts_usec) * unit;
                let time = Duration::from_secs(u64::from(frame.ts_sec)) + Duration::from_nanos(nanos);
                self.push(Some(time), frame.data, frame.caplen)
            }
            PcapBlockOwned::NG(Block::SectionHeader(_)) => {
                self.interfaces.clear();
                Ok(())
            }
            PcapBlockOwned::NG(Block::InterfaceDescription(interface)) => {
                let units_per_second = interface.ts_resolution().filter(|&units| units > 0).unwrap_or(1_000_000);
                self.interfaces.push(Interface { units_per_second });
                ethernet(interface.linktype)
            }
            PcapBlockOwned::NG(Block::EnhancedPacket(frame)) => {
                let interface = self.interfaces.get(frame.if_id as usize).ok_or(Refused::Interface(frame.if_id))?;
                let count = u64::from(frame.ts_high) << 32 | u64::from(frame.ts_low);
                let units = interface.units_per_second;
                let nanos = u128::from(count % units) * 1_000_000_000 / u128::from(units);
                // Less than a second. (Offsets of whole sections change nothing about what passed between two frames.)
                let time = Duration::from_secs(count / units) + Duration::from_nanos(nanos as u64);
                self.push(Some(time), frame.data, frame.caplen)
            }
            PcapBlockOwned::NG(Block::SimplePacket(frame)) => {
                // Without a time: as soon as the one before.
                self.push(None, frame.data, frame.origlen)
            }
            PcapBlockOwned::NG(_) => Ok(()),
        }
    }

    fn push(&mut self, time: Option<Duration>, data: &[u8], len: u32) -> Result<(), Refused> {
        // Behind the frame may be padding.
        let data = data.get(..len as usize).unwrap_or(data);
        if self.bytes.len() + data.len() > MAX_BYTES {
            return Err(Refused::TooLong);
        }
        let before = self.frames.last().map_or(Duration::ZERO, |frame| frame.at);
        let at = time.map_or(before, |time| time.saturating_sub(*self.first.get_or_insert(time)).max(before));
        self.frames.push(Recorded { at, start: self.bytes.len(), len: data.len() });
        self.bytes.extend_from_slice(data);
        Ok(())
    }
}

fn ethernet(link: Linktype) -> Result<(), Refused> {
    if link == Linktype::ETHERNET { Ok(()) } else { Err(Refused::LinkType(link.0)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classic(link: u32, frames: &[(u32, u32, &[u8])]) -> Vec<u8> {
        let mut file = Vec::new();
        for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 65535, link] {
            file.extend_from_slice(&word.to_le_bytes());
        }
        for (seconds, micros, bytes) in frames {
            for word in [*seconds, *micros, bytes.len() as u32, bytes.len() as u32] {
                file.extend_from_slice(&word.to_le_bytes());
            }
            file.extend_from_slice(bytes);
        }
        file
    }

    fn played(port: &mut PcapPort, now: Duration) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        port.poll(now, usize::MAX, &mut |frame| frames.push(frame.bytes.to_vec()));
        frames
    }

    #[test]
    fn frames_come_when_they_are_due() {
        let file = classic(1, &[(100, 999_000, b"first frame"), (101, 4_000, b"second"), (101, 4_000, b"third")]);
        let mut port = PcapPort::read(Path::new("test"), file.as_slice()).unwrap();
        let start = Duration::from_secs(7);
        assert_eq!(played(&mut port, start), [b"first frame".to_vec()]);
        assert_eq!(port.next_timeout(start), Some(Duration::from_millis(5)));
        assert!(played(&mut port, start + Duration::from_millis(4)).is_empty());
        assert_eq!(played(&mut port, start + Duration::from_millis(5)), [b"second".to_vec(), b"third".to_vec()]);
        assert_eq!(port.next_timeout(start), None);
    }

    #[test]
    fn what_is_no_ethernet_capture_is_refused() {
        let read = |file: &[u8]| PcapPort::read(Path::new("test"), file).unwrap_err();
        assert!(matches!(read(&classic(105, &[])), PcapPortError::LinkType { value: 105, .. }));
        assert!(matches!(read(b"no capture file at all, but some text"), PcapPortError::Format { .. }));
        let mut cut = classic(1, &[(1, 1, b"a frame of some bytes")]);
        cut.truncate(cut.len() - 3);
        assert!(matches!(read(&cut), PcapPortError::Format { .. }));
    }
}
