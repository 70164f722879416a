//! NVSP, the network virtual service protocol: what the synthetic network adapter of a Hyper-V
//! guest and its host tell each other over VMBus, around the RNDIS messages.
//!
//! This crate turns bytes into values and back. It keeps no state and allocates nothing:
//! negotiation, buffers and data path are the business of the driver (`netvsc`) and of the
//! simulated host (`netvsc-host`), which share nothing but these layouts. Whether an answer is
//! *acceptable* (a section that fits its buffer, a count that was asked for) is theirs to judge.
//!
//! ```
//! use nvsp::{Init, InitComplete, Message, Sender, Status, Version};
//!
//! // The guest offers a version …
//! let offer: [u8; nvsp::MESSAGE_LEN] = Init::only(Version::V6_1).to_array();
//! // … and the host reads it and answers.
//! let Message::Init(init) = Message::parse(&offer, Sender::Guest)? else { panic!("not an offer") };
//! let status = if init.max_version == Version::V6_1 { Status::SUCCESS } else { Status::NONE };
//! let answer = InitComplete { version: InitComplete::DEPRECATED_VERSION, max_mdl_chain_len: 34, status };
//! let mut buffer = [0; nvsp::LEGACY_MESSAGE_LEN];
//! let len = answer.emit_padded(&mut buffer, nvsp::LEGACY_MESSAGE_LEN)?;
//! assert_eq!(InitComplete::parse(&buffer[..len])?.status, Status::SUCCESS);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Reading and writing
//! - Every message is a type with `parse` and `emit`; [`Message`] is any of them. A message is the payload of one VMBus packet,
//!   which the ring pads to 8 bytes: `parse` asks for the bytes of the fields that mean something (`MIN_LEN`) and accepts any
//!   more. What is missing is named in the error.
//! - Reserved bytes are ignored when read and zero when written; unknown codes are kept ([`Version`], [`Status`],
//!   [`MessageType`] and the like are open), and so are unknown messages.
//! - `emit` writes a message without padding, `emit_padded` with zeros up to a length of the caller's choice, `to_array` into an array
//!   of constant size, for the data path. [`Version::message_len`] is the length that suits a session.
//! - No input makes this crate panic.
//!
//! # Glossary
//! - **guest**, VSC: the virtual machine's side, the driver. **host**, VSP: the other side.
//! - **channel**: a pair of rings. The **primary** channel carries everything, **subchannels** only [`RndisPacket`]
//!   and [`RndisPacketComplete`].
//! - **completion**: the VMBus packet that answers another one by its transaction id. Messages named `…Complete` travel in one.
//! - **GPADL**: guest physical address descriptor list, by which the guest shares memory.
//! - **receive buffer**: where the host puts RNDIS messages; **transfer pages** are the ranges in it that one VMBus packet hands
//!   over. The host divides it into **sub-allocations**.
//! - **send buffer**: where the guest may put RNDIS messages, in **sections** of equal size; the alternative is
//!   **GPA direct**, a VMBus packet that lists guest pages.
//! - **RSC**: receive segment coalescing. **VF**: the virtual function of an SR-IOV adapter.
//!
//! # Sources
//! There is no public specification. The layouts are those of Linux
//! `drivers/net/hyperv/hyperv_net.h` and OpenVMM `vm/devices/net/netvsp/src/protocol.rs`; DPDK
//! `drivers/net/netvsc` and FreeBSD `sys/dev/hyperv/netvsc` agree where they overlap.

#![no_std]
#![forbid(unsafe_code)]

mod buffers;
mod deprecated;
mod error;
mod field;
mod init;
mod limits;
mod message;
mod message_type;
mod oid_query;
mod packet_direct;
mod records;
mod rndis_packet;
mod send_table;
mod status;
mod subchannel;
mod version;
mod vf;

pub use buffers::{
    BufferId, GpadlHandle, ReceiveSection, RevokeReceiveBuffer, RevokeSendBuffer, SendReceiveBuffer,
    SendReceiveBufferComplete, SendSendBuffer, SendSendBufferComplete,
};
pub use deprecated::{AllocateReceiveBuffer, AllocateReceiveBufferComplete, FreeReceiveBuffer};
pub use error::{EmitError, ParseError};
pub use init::{Capabilities, Init, InitComplete, NdisConfig, NdisVersion};
pub use limits::*;
pub use message::{Message, Sender, UnknownMessage};
pub use message_type::MessageType;
pub use oid_query::{OidQueryEx, OidQueryExComplete};
pub use packet_direct::{
    GroupAffinity, PdAllocateCommonBufferComplete, PdAllocateCommonBufferRequest, PdBatchFlags, PdBuffer,
    PdCloseProviderRequest, PdComplete, PdConfigurationComplete, PdConfigurationRequest, PdCreateQueueComplete,
    PdCreateQueueRequest, PdFlushQueueRequest, PdFreeCommonBufferRequest, PdFreeQueueRequest, PdOpenProviderComplete,
    PdOpenProviderRequest, PdOperation, PdPostBatch, PdRequest, PdStatusComplete, PdSwitchDatapathRequest,
    PdUnknownRequest,
};
pub use records::Records;
pub use rndis_packet::{ChannelType, RndisPacket, RndisPacketComplete, SectionIndex};
pub use send_table::{SendTable, SendTableLayout, SendTableMessage};
pub use status::{NdisStatus, Status};
pub use subchannel::{SubchannelComplete, SubchannelOperation, SubchannelRequest};
pub use version::{ParseVersionError, Version};
pub use vf::{DataPath, SwitchDataPath, UplinkConnectState, VfAssociation};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
