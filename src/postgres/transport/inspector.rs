//! What a server may send over an SQL session. Pure.
//!
//! tokio-postgres answers every authentication request, takes messages of up to 2 GiB, and keeps
//! all notices and parameters that arrive before the end of the log-in. So each byte passes here
//! before tokio-postgres sees it. Bounded are the length of a message, everything before the end of
//! the log-in, what no statement asked for, and the number of parameters. The bytes pass unchanged.
//!
//! See <https://www.postgresql.org/docs/current/protocol-message-formats.html>.

use std::io;

use crate::config::AuthMethod;
use crate::error::{Code, Error};
use crate::fnv::fnv1a_64;
use crate::postgres::transport::authentication::{
    AuthenticationPolicy, RefusedRequest, check_iterations,
};

/// Letter and length; the length counts itself but not the letter.
const HEADER: usize = 5;

/// All bytes up to the end of the log-in: an error or a few dozen parameters.
const LOG_IN_BYTES_MAX: usize = 1 << 20;

/// A message that is neither a row nor a text: types of parameters, names of columns, states.
const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// An error or a notice: a trigger may quote a row in it.
const TEXT_BYTES_MAX: usize = 16 << 20;

/// Notices and the like between the ends of two statements.
const UNASKED_BYTES_MAX: usize = 16 << 20;

/// The names of parameters that a server reports; Postgres has some fifteen.
const PARAMETERS_MAX: usize = 256;

/// The beginning of a parameter's name by which it is known.
const NAME_BYTES: usize = 64;

/// What one session may receive.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// The longest row, in bytes.
    pub(crate) row: usize,
}

/// Why the bytes of a server are not passed on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("a message {tag:?} claims a length of {length} bytes")]
    Length { tag: char, length: u32 },
    #[error("the server sent more than {LOG_IN_BYTES_MAX} bytes before the end of the log-in")]
    LogIn,
    #[error("the server sent more than {UNASKED_BYTES_MAX} bytes of notices for one statement")]
    Unasked,
    #[error("the server reported more than {PARAMETERS_MAX} parameters")]
    Parameters,
    #[error(transparent)]
    Request(#[from] RefusedRequest),
}

/// The library's error if the bytes were not passed on; `context` names what was being done.
pub(crate) fn refusal(error: &io::Error, context: &str) -> Option<Error> {
    match error.get_ref()?.downcast_ref::<Refusal>()? {
        Refusal::Request(request) => Some(request.clone().error(context)),
        other => Some(
            Error::transient(Code::Connect, context)
                .with_source(other.clone())
                .with_hint("is it Postgres that listens there, or a proxy that garbles its bytes?"),
        ),
    }
}

/// How far the log-in is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The server has asked for nothing yet.
    Unasked,
    /// It has asked for a proof, or needed none.
    Asked,
    /// It accepts statements.
    Ready,
}

/// See the module's head.
#[derive(Debug)]
pub(crate) struct Inspector {
    policy: AuthenticationPolicy,
    limits: Limits,
    phase: Phase,
    /// The header of the next message, as far as it has arrived.
    header: Vec<u8>,
    /// The message that is passing, and how many of its bytes are still to come.
    tag: u8,
    left: usize,
    /// The beginning of its body, where it matters.
    kept: Vec<u8>,
    keep: usize,
    /// Bytes before the end of the log-in, then those that no statement asked for.
    counted: usize,
    parameters: Vec<u64>,
}

impl Inspector {
    pub(crate) fn new(policy: AuthenticationPolicy, limits: Limits) -> Self {
        Inspector {
            policy,
            limits,
            phase: Phase::Unasked,
            header: Vec::with_capacity(HEADER),
            tag: 0,
            left: 0,
            kept: Vec::new(),
            keep: 0,
            counted: 0,
            parameters: Vec::new(),
        }
    }

    /// Looks at the next bytes of the server.
    ///
    /// # Errors
    /// They must not be passed on.
    pub(crate) fn feed(&mut self, mut bytes: &[u8]) -> Result<(), Refusal> {
        while !bytes.is_empty() {
            if self.left == 0 {
                let (head, rest) = bytes.split_at(bytes.len().min(HEADER - self.header.len()));
                self.header.extend_from_slice(head);
                bytes = rest;
                if let &[tag, a, b, c, d] = self.header.as_slice() {
                    self.header.clear();
                    self.begin(tag, u32::from_be_bytes([a, b, c, d]))?;
                }
            } else {
                let (body, rest) = bytes.split_at(bytes.len().min(self.left));
                let wanted = body.len().min(self.keep - self.kept.len());
                self.kept
                    .extend_from_slice(body.get(..wanted).unwrap_or_default());
                self.left -= body.len();
                bytes = rest;
                if self.left == 0 {
                    self.end()?;
                }
            }
        }
        Ok(())
    }

    fn begin(&mut self, tag: u8, length: u32) -> Result<(), Refusal> {
        let body = (length as usize).checked_sub(4);
        let Some(body) = body.filter(|body| *body <= self.longest(tag)) else {
            let tag = char::from(tag);
            return Err(Refusal::Length { tag, length });
        };
        (self.tag, self.left) = (tag, body);
        self.keep = match tag {
            b'R' if self.phase != Phase::Ready => LOG_IN_BYTES_MAX,
            b'S' => NAME_BYTES,
            _ => 0,
        };
        self.kept.clear();
        self.count(HEADER + body)?;
        match body {
            0 => self.end(),
            _ => Ok(()),
        }
    }

    fn longest(&self, tag: u8) -> usize {
        match tag {
            _ if self.phase != Phase::Ready => LOG_IN_BYTES_MAX,
            b'D' | b'd' => self.limits.row,
            b'E' | b'N' => TEXT_BYTES_MAX,
            _ => MESSAGE_BYTES_MAX,
        }
    }

    fn count(&mut self, bytes: usize) -> Result<(), Refusal> {
        let is_unasked = matches!(self.tag, b'N' | b'S' | b'A');
        if self.phase == Phase::Ready && !is_unasked {
            return Ok(());
        }
        self.counted += bytes;
        match self.phase {
            Phase::Ready if self.counted > UNASKED_BYTES_MAX => Err(Refusal::Unasked),
            Phase::Unasked | Phase::Asked if self.counted > LOG_IN_BYTES_MAX => Err(Refusal::LogIn),
            _ => Ok(()),
        }
    }

    /// A message is complete.
    fn end(&mut self) -> Result<(), Refusal> {
        match self.tag {
            b'R' if self.phase != Phase::Ready => self.judge_request()?,
            b'S' => self.note_parameter()?,
            b'Z' => {
                self.phase = Phase::Ready;
                self.counted = 0;
            }
            _ => {}
        }
        if self.kept.capacity() > NAME_BYTES {
            self.kept = Vec::new();
        }
        Ok(())
    }

    fn judge_request(&mut self) -> Result<(), Refusal> {
        let Some((kind, rest)) = self.kept.split_first_chunk::<4>() else {
            return Ok(());
        };
        let method = match u32::from_be_bytes(*kind) {
            0 if self.phase == Phase::Asked => return Ok(()),
            0 => AuthMethod::None,
            3 => AuthMethod::Password,
            5 => AuthMethod::Md5,
            2 | 7 => AuthMethod::Gss,
            9 => AuthMethod::Sspi,
            10 => AuthMethod::ScramSha256,
            11 => return Ok(check_iterations(rest)?),
            // tokio-postgres answers none of the others.
            _ => return Ok(()),
        };
        self.phase = Phase::Asked;
        Ok(self.policy.check(method)?)
    }

    fn note_parameter(&mut self) -> Result<(), Refusal> {
        let name = self.kept.split(|byte| *byte == 0).next();
        let name = fnv1a_64(&[name.unwrap_or_default()]);
        if self.parameters.contains(&name) {
            return Ok(());
        }
        self.parameters.push(name);
        match self.parameters.len() > PARAMETERS_MAX {
            true => Err(Refusal::Parameters),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::config::RequireAuth;
    use crate::postgres::transport::Socket;
    use proptest::prelude::*;

    const LIMITS: Limits = Limits { row: 1 << 20 };

    fn inspector() -> Inspector {
        let (near, _far) = tokio::io::duplex(1);
        let policy = AuthenticationPolicy::new(&RequireAuth::default(), &Socket::Scripted(near));
        Inspector::new(policy, LIMITS)
    }

    fn message(tag: u8, body: &[u8]) -> Vec<u8> {
        [&[tag], &(body.len() as u32 + 4).to_be_bytes()[..], body].concat()
    }

    fn header(tag: u8, length: u32) -> Vec<u8> {
        [&[tag], &length.to_be_bytes()[..]].concat()
    }

    fn request(kind: u32, rest: &[u8]) -> Vec<u8> {
        message(b'R', &[&kind.to_be_bytes(), rest].concat())
    }

    fn logged_in() -> Inspector {
        let mut inspector = inspector();
        let bytes = [
            request(0, b""),
            message(b'S', b"server_version\x0017.11\0"),
            message(b'K', &[0; 8]),
            message(b'Z', b"I"),
        ];
        inspector.feed(&bytes.concat()).unwrap();
        inspector
    }

    #[test]
    fn before_the_end_of_the_log_in_a_megabyte_is_all_that_is_taken() {
        for tag in *b"RESNdDZ" {
            let long = header(tag, 1 << 30);
            let refused = inspector().feed(&long).unwrap_err();
            let (tag, length) = (char::from(tag), 1 << 30);
            assert_eq!(refused, Refusal::Length { tag, length });
        }
        let mut inspector = inspector();
        inspector.feed(&request(0, b"")).unwrap();
        let notice = message(b'N', &[b'x'; 1000]);
        let taken = (0..2000).take_while(|_| inspector.feed(&notice).is_ok());
        assert!((1000..1100).contains(&taken.count()));
        let mut inspector = self::inspector();
        inspector.feed(&request(0, b"")).unwrap();
        let all = notice.repeat(1100);
        assert_eq!(inspector.feed(&all), Err(Refusal::LogIn));
    }

    #[test]
    fn what_no_statement_asked_for_is_bounded_and_rows_are_not() {
        let mut inspector = logged_in();
        let notice = message(b'N', &vec![b'x'; (1 << 20) - 5]);
        let row = message(b'D', &vec![b'x'; 1 << 20]);
        for _ in 0..15 {
            inspector.feed(&notice).unwrap();
            inspector.feed(&row).unwrap();
            inspector.feed(&row).unwrap();
        }
        inspector.feed(&message(b'Z', b"I")).unwrap();
        for _ in 0..16 {
            inspector.feed(&notice).unwrap();
        }
        assert_eq!(inspector.feed(&notice), Err(Refusal::Unasked));
        for (tag, length) in [
            (b'D', 2 << 20),
            (b'E', 17 << 20),
            (b'T', 2 << 20),
            (b'C', 3),
        ] {
            let refused = logged_in().feed(&header(tag, length)).unwrap_err();
            let tag = char::from(tag);
            assert_eq!(refused, Refusal::Length { tag, length });
        }
    }

    #[test]
    fn parameters_are_known_by_name_and_their_number_is_bounded() {
        let mut inspector = logged_in();
        let report = |name: usize| message(b'S', format!("name{name}\0value\0").as_bytes());
        for _ in 0..10_000 {
            inspector.feed(&report(1)).unwrap();
        }
        let taken = (2..2000).take_while(|name| inspector.feed(&report(*name)).is_ok());
        assert_eq!(taken.count(), PARAMETERS_MAX - 2);
    }

    #[test]
    fn an_exposed_password_and_endless_hashing_are_refused_with_the_last_byte_of_the_request() {
        let mut inspector = inspector();
        inspector.policy = AuthenticationPolicy::exposed(RequireAuth::default());
        let (last, first) = request(3, b"")
            .split_last()
            .map(|(a, b)| (*a, b.to_vec()))
            .unwrap();
        inspector.feed(&first).unwrap();
        let refused = inspector.feed(&[last]).unwrap_err();
        assert_eq!(refused, Refusal::Request(RefusedRequest::ClearText));
        let mut inspector = self::inspector();
        inspector.feed(&request(10, b"SCRAM-SHA-256\0\0")).unwrap();
        let refused = inspector
            .feed(&request(11, b"r=a,s=b,i=2000000000"))
            .unwrap_err();
        assert!(matches!(
            refused,
            Refusal::Request(RefusedRequest::Iterations(_))
        ));
    }

    proptest! {
        #[test]
        fn any_bytes_are_passed_or_refused_however_they_arrive(
            bytes: Vec<u8>, cut in 1..9_usize, ready: bool,
        ) {
            let start = || if ready { logged_in() } else { inspector() };
            let (mut whole, mut parts) = (start(), start());
            let at_once = whole.feed(&bytes);
            let in_parts = bytes.chunks(cut).try_for_each(|part| parts.feed(part));
            prop_assert_eq!(at_once, in_parts);
        }
    }
}
