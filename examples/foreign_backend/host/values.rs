//! What the adapter answers to RNDIS requests.

use rndis::control::{InitializeComplete, KeepAliveComplete, QueryComplete, SetComplete};
use rndis::offload::Offload;
use rndis::packet::BatchLimits;
use rndis::value::{LinkSpeed, MacAddress, MediaConnectStatus, PacketFilter};
use rndis::{Message, Oid, Status};

/// The guest's address. A locally administered one, as all that are made up.
pub(crate) const GUEST_MAC: MacAddress = MacAddress([0x02, 0x15, 0x5d, 0x00, 0x00, 0x01]);

/// Most messages and bytes in one send section, and where each starts.
pub(super) const LIMITS: BatchLimits = BatchLimits { max_messages: 8, max_bytes: 0x8000, alignment: 8 };

/// What requests are about and change.
#[derive(Debug)]
pub(super) struct Values {
    /// Largest frame without its Ethernet header.
    pub(super) mtu: u32,
    /// Which frames the guest wants.
    pub(super) filter: PacketFilter,
}

impl Values {
    /// The answer to a message, `None` if there is none (HALT).
    pub(super) fn answer(&mut self, message: &Message<'_>) -> anyhow::Result<Option<Vec<u8>>> {
        Ok(match message {
            Message::Initialize(request) => Some(bytes(&Message::InitializeComplete(InitializeComplete {
                request_id: request.request_id,
                status: Status::SUCCESS,
                major_version: 1,
                minor_version: 0,
                device_flags: 1,
                medium: 0,
                max_packets_per_message: LIMITS.max_messages,
                max_transfer_size: LIMITS.max_bytes,
                packet_alignment_log2: LIMITS.alignment.ilog2(),
                af_list_offset: 0,
                af_list_size: 0,
            }))?),
            Message::Query(query) => {
                let mut value = [0; Offload::LEN_V3];
                let (status, len) = match self.value(query.oid, query.information, &mut value)? {
                    Some(len) => (Status::SUCCESS, len),
                    None => (Status::NOT_SUPPORTED, 0),
                };
                let information = &value[..len];
                let complete = QueryComplete { request_id: query.request_id, status, information };
                Some(bytes(&Message::QueryComplete(complete))?)
            }
            Message::Set(set) => {
                if set.oid == Oid::PACKET_FILTER {
                    self.filter = PacketFilter::parse(set.information)?;
                }
                let complete = SetComplete { request_id: set.request_id, status: Status::SUCCESS };
                Some(bytes(&Message::SetComplete(complete))?)
            }
            Message::KeepAlive(alive) => {
                let complete = KeepAliveComplete { request_id: alive.request_id, status: Status::SUCCESS };
                Some(bytes(&Message::KeepAliveComplete(complete))?)
            }
            Message::Halt(_) => None,
            other => anyhow::bail!("RNDIS message {} from the guest", other.message_type()),
        })
    }

    /// Writes the value of an OID; `None` for one that this host does not know, which guests have to take.
    fn value(&self, oid: Oid, information: &[u8], out: &mut [u8]) -> anyhow::Result<Option<usize>> {
        Ok(Some(match oid {
            Oid::PERMANENT_ADDRESS => GUEST_MAC.emit(out)?,
            Oid::MAXIMUM_FRAME_SIZE => rndis::value::emit_u32_value(self.mtu, out)?,
            Oid::MEDIA_CONNECT_STATUS => MediaConnectStatus::CONNECTED.emit(out)?,
            // In units of 100 bit/s: 10 Gbit/s.
            Oid::LINK_SPEED => LinkSpeed(100_000_000).emit(out)?,
            // Guests insist on an answer; "nothing at all" is one, in the revision that was asked for.
            Oid::TCP_OFFLOAD_HARDWARE_CAPABILITIES => {
                Offload::empty(information.get(1).copied().unwrap_or(1).clamp(1, 3)).emit(out)?
            }
            _ => return Ok(None),
        }))
    }
}

fn bytes(message: &Message<'_>) -> anyhow::Result<Vec<u8>> {
    let mut bytes = vec![0; message.buffer_len()];
    message.emit(&mut bytes)?;
    Ok(bytes)
}
