//! RNDIS requests: one on its way at a time, the others wait.
//!
//! An answer is matched by id *and* type (Linux matches by id only). The completion of the NVSP message that carried the
//! request and its RNDIS answer are independent and come in either order: the answer alone ends a request, a completion only
//! if it says that the host did not take the message. Ids count up, so that a late answer cannot be taken for another's.

use alloc::collections::VecDeque;
use alloc::vec;
use alloc::vec::Vec;

use rndis::control::{Initialize, InitializeComplete, Query, QueryComplete, Set, SetComplete};
use rndis::{MessageHeader, MessageType, Oid, ParseError, RequestId, Status};

use crate::queue::ControlToken;
use crate::time::Instant;

use super::event::RequestHandle;
use super::failure::{RequestError, Step, Violation};

/// Most requests of the user that wait.
pub(super) const MAX_WAITING: usize = 64;
/// What Linux and DPDK tell the host of their largest message.
const MAX_TRANSFER_SIZE: u32 = 0x4000;

/// Who asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// The bring-up.
    Setup,
    /// The teardown.
    Close,
    /// A change of scaling.
    Scaling,
    /// A change of offloads.
    Offloads,
    /// A change of the device.
    Reconfigure,
    /// The user.
    User(RequestHandle),
    /// A user who gave up: the id stays reserved, the answer is dropped.
    Abandoned,
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ask {
    /// INITIALIZE.
    Initialize,
    /// QUERY, with its input.
    Query(Oid, Vec<u8>),
    /// SET, with the value.
    Set(Oid, Vec<u8>),
}

impl Ask {
    fn answer_type(&self) -> MessageType {
        match self {
            Self::Initialize => MessageType::INITIALIZE_COMPLETE,
            Self::Query(..) => MessageType::QUERY_COMPLETE,
            Self::Set(..) => MessageType::SET_COMPLETE,
        }
    }

    pub(super) fn step(&self) -> Step {
        match *self {
            Self::Initialize => Step::Initialize,
            Self::Query(oid, _) => Step::Query(oid),
            Self::Set(oid, _) => Step::Set(oid),
        }
    }

    fn emit(&self, id: RequestId) -> Result<Vec<u8>, rndis::EmitError> {
        let mut out;
        match self {
            Self::Initialize => {
                out = vec![0; Initialize::LEN];
                Initialize { request_id: id, major_version: 1, minor_version: 0, max_transfer_size: MAX_TRANSFER_SIZE }
                    .emit(&mut out)?;
            }
            Self::Query(oid, input) => {
                let query = Query { information: input, ..Query::new(id, *oid) };
                out = vec![0; query.buffer_len()];
                query.emit(&mut out)?;
            }
            Self::Set(oid, value) => {
                let set = Set::new(id, *oid, value);
                out = vec![0; set.buffer_len()];
                set.emit(&mut out)?;
            }
        }
        Ok(out)
    }
}

/// A successful answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// To INITIALIZE.
    Initialize(InitializeComplete),
    /// To a query; empty for a set.
    Value(Vec<u8>),
}

/// A request that is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Done {
    pub(super) origin: Origin,
    pub(super) ask: Ask,
    pub(super) result: Result<Answer, RequestError>,
}

/// What an RNDIS answer from the host was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Received {
    /// The one that was waited for.
    Done(Done),
    /// One to a request that is over: late or repeated.
    Late,
    /// One to no request of ours, or of another type than asked.
    Unsolicited,
    /// It has not even an id.
    Unreadable(ParseError),
}

#[derive(Debug)]
struct InFlight {
    id: RequestId,
    token: ControlToken,
    origin: Origin,
    ask: Ask,
    deadline: Instant,
}

/// All requests.
#[derive(Debug)]
pub(super) struct Requests {
    /// The id before the next one.
    last_id: u32,
    in_flight: Option<InFlight>,
    waiting: VecDeque<(Origin, Ask)>,
}

impl Requests {
    pub(super) const fn new() -> Self {
        Self { last_id: 0, in_flight: None, waiting: VecDeque::new() }
    }

    /// How many wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Queues a request.
    pub(super) fn push(&mut self, origin: Origin, ask: Ask) {
        self.waiting.push_back((origin, ask));
    }

    /// The next id; 0 is left out, since hosts send it when they have none.
    pub(super) fn next_id(&mut self) -> RequestId {
        self.last_id = self.last_id.checked_add(1).unwrap_or(1);
        RequestId(self.last_id)
    }

    /// The message of the next request, if none is on its way.
    pub(super) fn start(&mut self, token: ControlToken, deadline: Instant) -> Option<Result<Vec<u8>, Done>> {
        if self.in_flight.is_some() {
            return None;
        }
        let (origin, ask) = self.waiting.pop_front()?;
        let id = self.next_id();
        match ask.emit(id) {
            Ok(message) => {
                self.in_flight = Some(InFlight { id, token, origin, ask, deadline });
                Some(Ok(message))
            }
            Err(error) => Some(Err(Done { origin, ask, result: Err(RequestError::CannotEncode(error)) })),
        }
    }

    /// Whether [`start`](Self::start) would give something.
    pub(super) fn can_start(&self) -> bool {
        self.in_flight.is_none() && !self.waiting.is_empty()
    }

    /// An RNDIS message came whose type is that of an answer.
    pub(super) fn answered(&mut self, payload: &[u8], message_type: MessageType) -> Received {
        let id = match answer_id(payload) {
            Ok(id) => id,
            Err(error) => return Received::Unreadable(error),
        };
        match self.in_flight.take_if(|request| request.id == id && request.ask.answer_type() == message_type) {
            Some(request) => {
                let result = read(&request.ask, payload);
                Received::Done(Done { origin: request.origin, ask: request.ask, result })
            }
            None if self.in_flight.as_ref().is_some_and(|request| request.id == id) => Received::Unsolicited,
            None if (1..=self.last_id).contains(&id.0) => Received::Late,
            None => Received::Unsolicited,
        }
    }

    /// The NVSP message that carried a request was completed; `Some` if that ends it.
    pub(super) fn completed(&mut self, token: ControlToken, payload: &[u8]) -> Option<Done> {
        let status = match nvsp::RndisPacketComplete::parse(payload) {
            Ok(complete) if complete.status.is_success() => return None,
            Ok(complete) => Ok(complete.status),
            Err(error) => Err(error),
        };
        let request = self.in_flight.take_if(|request| request.token == token)?;
        let error = match status {
            Ok(status) => RequestError::NotTaken { status },
            Err(error) => RequestError::Violation(Violation::Nvsp(error)),
        };
        Some(Done { origin: request.origin, ask: request.ask, result: Err(error) })
    }

    /// The message of a request cannot be sent; `Some` if it was one of these.
    pub(super) fn not_sent(&mut self, token: ControlToken, kind: vmbus::ErrorKind) -> Option<Done> {
        let request = self.in_flight.take_if(|request| request.token == token)?;
        Some(Done { origin: request.origin, ask: request.ask, result: Err(RequestError::CannotSend(kind)) })
    }

    /// The request whose time is up.
    pub(super) fn expire(&mut self, now: Instant, error: RequestError) -> Option<Done> {
        let request = self.in_flight.take_if(|request| request.deadline <= now)?;
        Some(Done { origin: request.origin, ask: request.ask, result: Err(error) })
    }

    /// When [`expire`](Self::expire) is due.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.in_flight.as_ref().map(|request| request.deadline)
    }

    /// The user gave up.
    pub(super) fn abandon(&mut self, handle: RequestHandle) {
        let origin = Origin::User(handle);
        self.waiting.retain(|(waiting, _)| *waiting != origin);
        if let Some(request) = self.in_flight.as_mut().filter(|request| request.origin == origin) {
            request.origin = Origin::Abandoned;
        }
    }

    /// Ends all requests; gives the users' handles.
    pub(super) fn cancel_all(&mut self) -> Vec<RequestHandle> {
        let in_flight = self.in_flight.take().map(|request| request.origin);
        let waiting = self.waiting.drain(..).map(|(origin, _)| origin);
        let handle = |origin| if let Origin::User(handle) = origin { Some(handle) } else { None };
        in_flight.into_iter().chain(waiting).filter_map(handle).collect()
    }
}

/// The id stands at the same place in all answers (the reset's has none, but nobody asks for a reset).
fn answer_id(payload: &[u8]) -> Result<RequestId, ParseError> {
    MessageHeader::parse(payload)?;
    let missing = ParseError::Truncated {
        field: "RequestID",
        needed: 12,
        available: u32::try_from(payload.len()).unwrap_or(u32::MAX),
    };
    let bytes = payload.get(8..).and_then(|rest| rest.first_chunk()).ok_or(missing)?;
    Ok(RequestId(u32::from_le_bytes(*bytes)))
}

fn read(ask: &Ask, payload: &[u8]) -> Result<Answer, RequestError> {
    let violation = |error| RequestError::Violation(Violation::Rndis(error));
    let success = |status: Status, answer| {
        if status.is_success() { Ok(answer) } else { Err(RequestError::Refused { status }) }
    };
    match ask {
        Ask::Initialize => {
            let complete = InitializeComplete::parse(payload).map_err(violation)?;
            success(complete.status, Answer::Initialize(complete))
        }
        Ask::Query(..) => {
            let complete = QueryComplete::parse(payload).map_err(violation)?;
            success(complete.status, Answer::Value(complete.information.to_vec()))
        }
        Ask::Set(..) => {
            let complete = SetComplete::parse(payload).map_err(violation)?;
            success(complete.status, Answer::Value(Vec::new()))
        }
    }
}
