//! As much of HTTP/1.1 as an appliance needs to show what it does: heads of requests and responses.
//!
//! Source: RFC 9112 (syntax) and RFC 9110 (status codes). Only `GET` and `HEAD`, no request bodies; what is not
//! understood is refused with the reason as text, never guessed.

use std::fmt::Write;

use crate::blob::{self, Hash};

/// Most bytes of a request or response head.
pub const MAX_HEAD_BYTES: usize = 8192;

/// A request that can be answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Only the head of the response is wanted (`HEAD`).
    pub head_only: bool,
    /// The target's path, as sent.
    pub path: String,
    /// The target's query, as sent; empty if there is none.
    pub query: String,
    /// Whether the connection stays open for another request.
    pub keep_alive: bool,
}

/// A request that is answered with an error, after which the connection is closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The status code.
    pub status: Status,
    /// Why, for people.
    pub reason: String,
}

impl Refusal {
    /// A refusal with this status.
    pub fn new(status: Status, reason: impl Into<String>) -> Self {
        Self { status, reason: reason.into() }
    }
}

/// A status code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status(pub u16);

impl Status {
    /// 200
    pub const OK: Self = Self(200);
    /// 400
    pub const BAD_REQUEST: Self = Self(400);
    /// 404
    pub const NOT_FOUND: Self = Self(404);
    /// 405
    pub const METHOD_NOT_ALLOWED: Self = Self(405);
    /// 413
    pub const CONTENT_TOO_LARGE: Self = Self(413);

    fn phrase(self) -> &'static str {
        match self {
            Self::OK => "OK",
            Self::BAD_REQUEST => "Bad Request",
            Self::NOT_FOUND => "Not Found",
            Self::METHOD_NOT_ALLOWED => "Method Not Allowed",
            Self::CONTENT_TOO_LARGE => "Content Too Large",
            // A phrase is optional.
            _ => "",
        }
    }
}

impl Request {
    /// Reads a request from the start of what a client sent: the request and how many bytes it took, or nothing as
    /// long as its end is not there yet.
    ///
    /// # Errors
    /// 400 what is no request, 405 other methods, 413 heads over [`MAX_HEAD_BYTES`] and requests with a body.
    pub fn parse(input: &[u8]) -> Result<Option<(Self, usize)>, Refusal> {
        let Some((head, used)) = split_head(input)? else { return Ok(None) };
        let mut lines = head.split("\r\n");
        let mut words = lines.next().unwrap_or_default().split(' ');
        let (Some(method), Some(target), Some(version), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(bad("the request line is not METHOD TARGET VERSION"));
        };
        let is_1_1 = match version {
            "HTTP/1.1" => true,
            "HTTP/1.0" => false,
            _ => return Err(bad("the version is neither HTTP/1.0 nor HTTP/1.1")),
        };
        if method.is_empty() || !method.bytes().all(is_token) {
            return Err(bad("the method is not a token"));
        }
        let head_only = match method {
            "GET" => false,
            "HEAD" => true,
            _ => return Err(Refusal::new(Status::METHOD_NOT_ALLOWED, format!("{method} is neither GET nor HEAD"))),
        };
        if !target.starts_with('/') {
            return Err(bad("the target does not start with /"));
        }
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let mut request = Self { head_only, path: path.to_owned(), query: query.to_owned(), keep_alive: is_1_1 };
        let mut hosts = 0;
        for line in lines {
            let (name, value) = header(line).ok_or_else(|| bad("a header line is not NAME: VALUE"))?;
            match name.as_str() {
                "host" => hosts += 1,
                "connection" => {
                    for option in value.split(',').map(str::trim) {
                        if option.eq_ignore_ascii_case("close") {
                            request.keep_alive = false;
                        } else if option.eq_ignore_ascii_case("keep-alive") && !is_1_1 {
                            request.keep_alive = true;
                        }
                    }
                }
                "transfer-encoding" => return Err(body_refused()),
                "content-length" => match value.parse::<u64>() {
                    Ok(0) => {}
                    Ok(_) => return Err(body_refused()),
                    Err(_) => return Err(bad("Content-Length is not a number")),
                },
                _ => {}
            }
        }
        if hosts > 1 || (is_1_1 && hosts == 0) {
            return Err(bad("HTTP/1.1 needs exactly one Host header"));
        }
        Ok(Some((request, used)))
    }

    /// The value of a query parameter, as sent.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.query.split('&').find_map(|pair| pair.split_once('=').filter(|(key, _)| *key == name)).map(|(_, v)| v)
    }

    /// A `GET` as [`parse`](Self::parse) reads it.
    pub fn get(target: &str, host: &str) -> Vec<u8> {
        format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: netvsc-appliance\r\n\r\n").into_bytes()
    }
}

/// The head of a response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// The status code.
    pub status: Status,
    /// What the body is; nothing if not stated.
    pub content_type: &'static str,
    /// Bytes of the body.
    pub content_length: u64,
    /// The body's hash (`X-Sha256`).
    pub sha256: Option<Hash>,
    /// Whether the connection stays open.
    pub keep_alive: bool,
}

impl Response {
    /// The bytes to send before the body.
    pub fn encode(&self) -> Vec<u8> {
        let Self { status, content_type, content_length, sha256, keep_alive } = self;
        let mut head = format!("HTTP/1.1 {} {}\r\nContent-Length: {content_length}\r\n", status.0, status.phrase());
        let mut line = |name: &str, value: &str| {
            // Writing to a string cannot fail.
            let _ = write!(head, "{name}: {value}\r\n");
        };
        if !content_type.is_empty() {
            line("Content-Type", content_type);
        }
        line("Cache-Control", "no-store");
        if *status == Status::METHOD_NOT_ALLOWED {
            line("Allow", "GET, HEAD");
        }
        if let Some(hash) = sha256 {
            line("X-Sha256", &blob::hex(hash));
        }
        if !keep_alive {
            line("Connection", "close");
        }
        head.push_str("\r\n");
        head.into_bytes()
    }

    /// Reads what [`encode`](Self::encode) writes, but for the content type, and how many bytes it took; nothing as
    /// long as its end is not there yet.
    ///
    /// # Errors
    /// What cannot be understood, as text.
    pub fn parse(input: &[u8]) -> Result<Option<(Self, usize)>, String> {
        let Some((head, used)) = split_head(input).map_err(|refusal| refusal.reason)? else { return Ok(None) };
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 ")).and_then(|line| line.get(..3));
        let status = status.and_then(|code| code.parse().ok()).ok_or("the status line is not HTTP/1.1 CODE PHRASE")?;
        let mut length = None;
        let mut response =
            Self { status: Status(status), content_type: "", content_length: 0, sha256: None, keep_alive: true };
        for line in lines {
            let (name, value) = header(line).ok_or("a header line is not NAME: VALUE")?;
            match name.as_str() {
                "content-length" => length = Some(value.parse().map_err(|_| "Content-Length is not a number")?),
                "x-sha256" => {
                    response.sha256 = Some(blob::from_hex(value).ok_or("X-Sha256 is not 64 hexadecimal digits")?);
                }
                "connection" if value.eq_ignore_ascii_case("close") => response.keep_alive = false,
                _ => {}
            }
        }
        response.content_length = length.ok_or("there is no Content-Length")?;
        Ok(Some((response, used)))
    }
}

/// The head without its empty line, and its length with it; nothing while the end is missing.
fn split_head(input: &[u8]) -> Result<Option<(&str, usize)>, Refusal> {
    let limit = input.len().min(MAX_HEAD_BYTES);
    let Some(end) = input[..limit].windows(4).position(|window| window == b"\r\n\r\n") else {
        if input.len() >= MAX_HEAD_BYTES {
            let reason = format!("the head is longer than {MAX_HEAD_BYTES} bytes");
            return Err(Refusal::new(Status::CONTENT_TOO_LARGE, reason));
        }
        // What cannot start a head any more is refused now, not after as many bytes as fit.
        return match input.iter().find(|byte| !is_text(**byte)) {
            Some(_) => Err(bad("the head holds bytes that are not text")),
            None => Ok(None),
        };
    };
    let head = &input[..end];
    match std::str::from_utf8(head) {
        Ok(text) if head.iter().all(|byte| is_text(*byte)) => Ok(Some((text, end + 4))),
        _ => Err(bad("the head holds bytes that are not text")),
    }
}

/// A header's name in lower case, and its value without the space around it.
fn header(line: &str) -> Option<(String, &str)> {
    let (name, value) = line.split_once(':')?;
    (!name.is_empty() && name.bytes().all(is_token)).then(|| (name.to_ascii_lowercase(), value.trim()))
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Field values may hold bytes over 0x7F (RFC 9110, 5.5), but no control characters.
fn is_text(byte: u8) -> bool {
    byte >= b' ' && byte != 0x7F || matches!(byte, b'\r' | b'\n' | b'\t')
}

fn bad(reason: &str) -> Refusal {
    Refusal::new(Status::BAD_REQUEST, reason)
}

fn body_refused() -> Refusal {
    Refusal::new(Status::CONTENT_TOO_LARGE, "requests with a body are not taken")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(input: &str) -> u16 {
        Request::parse(input.as_bytes()).unwrap_err().status.0
    }

    #[test]
    fn reads_a_request_only_once_it_is_whole() {
        let input = b"GET /blob?bytes=5&x=1 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\nGET";
        for end in 0..input.len() - 3 {
            assert_eq!(Request::parse(&input[..end]), Ok(None), "{end} bytes");
        }
        let (request, used) = Request::parse(input).unwrap().unwrap();
        assert_eq!(used, input.len() - 3);
        assert_eq!((request.path.as_str(), request.parameter("bytes")), ("/blob", Some("5")));
        assert_eq!(request.parameter("byte"), None);
        assert!(!request.keep_alive && !request.head_only);
    }

    #[test]
    fn versions_differ_in_who_asks_to_stay() {
        let keep_alive = |input: &str| Request::parse(input.as_bytes()).unwrap().unwrap().0.keep_alive;
        assert!(keep_alive("HEAD / HTTP/1.1\r\nhost: a\r\n\r\n"));
        assert!(!keep_alive("HEAD / HTTP/1.0\r\n\r\n"));
        assert!(keep_alive("HEAD / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n"));
    }

    #[test]
    fn refuses_with_the_status_that_fits() {
        assert_eq!(refused("GET /\r\n\r\n"), 400);
        assert_eq!(refused("GET / HTTP/2\r\n\r\n"), 400);
        assert_eq!(refused("GET  / HTTP/1.1\r\nHost: a\r\n\r\n"), 400);
        assert_eq!(refused("GET blob HTTP/1.1\r\nHost: a\r\n\r\n"), 400);
        assert_eq!(refused("GET / HTTP/1.1\r\n\r\n"), 400, "no Host");
        assert_eq!(refused("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"), 400);
        assert_eq!(refused("GET / HTTP/1.1\r\nHost : a\r\n\r\n"), 400, "space before the colon");
        assert_eq!(refused("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n"), 400);
        assert_eq!(refused("\u{1}"), 400, "before the end of the head");
        assert_eq!(refused("POST / HTTP/1.1\r\nHost: a\r\n\r\n"), 405);
        assert_eq!(refused("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n"), 413);
        assert_eq!(refused("GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"), 413);
        assert_eq!(refused(&format!("GET /{} HTTP/1.1\r\n", "a".repeat(MAX_HEAD_BYTES))), 413);
    }

    #[test]
    fn a_response_reads_back() {
        let response = Response {
            status: Status::OK,
            content_type: "",
            content_length: u64::MAX,
            sha256: Some([0xA5; 32]),
            keep_alive: false,
        };
        let mut bytes = response.encode();
        let len = bytes.len();
        bytes.extend_from_slice(b"body");
        assert_eq!(Response::parse(&bytes), Ok(Some((response, len))));
        assert_eq!(Response::parse(&bytes[..len - 1]), Ok(None));
        assert!(Response::parse(b"HTTP/1.1 200 OK\r\n\r\n").is_err(), "no length");
        assert!(Response::parse(b"SSH-2.0\r\n\r\n").is_err());
    }
}
