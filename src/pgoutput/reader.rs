//! A cursor over the bytes of one message.
//!
//! Every read checks the remaining length and returns a borrow of the input, so nothing here can
//! panic, allocate or read past the end, whatever a server sends.

use crate::pgoutput::DecodeError;

/// The unread rest of a message.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Reader { rest: bytes }
    }

    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self
            .rest
            .split_at_checked(count)
            .ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (taken, rest) = self
            .rest
            .split_first_chunk::<N>()
            .ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(*taken)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, DecodeError> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn i32(&mut self) -> Result<i32, DecodeError> {
        self.array().map(i32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, DecodeError> {
        self.array().map(u64::from_be_bytes)
    }

    pub(crate) fn i64(&mut self) -> Result<i64, DecodeError> {
        self.array().map(i64::from_be_bytes)
    }

    /// A number of columns: an `Int16` that must not be negative.
    pub(crate) fn column_count(&mut self) -> Result<u16, DecodeError> {
        let count = self.array().map(i16::from_be_bytes)?;
        u16::try_from(count).map_err(|_| DecodeError::NegativeLength)
    }

    /// A number of bytes or items: an `Int32` that must not be negative.
    pub(crate) fn length(&mut self) -> Result<usize, DecodeError> {
        usize::try_from(self.i32()?).map_err(|_| DecodeError::NegativeLength)
    }

    /// The letter `t`, a length and so many bytes, all of them or nothing: what nearly every column
    /// of a row is. An event's columns are read twice, so this is read at once.
    #[inline(always)]
    pub(crate) fn text(&mut self) -> Option<&'a [u8]> {
        let [b't', a, b, c, d, rest @ ..] = self.rest else {
            return None;
        };
        let length = i32::from_be_bytes([*a, *b, *c, *d]);
        let (text, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
        self.rest = rest;
        Some(text)
    }

    /// A zero-terminated string, which the server sends in the client encoding, UTF-8.
    pub(crate) fn string(&mut self) -> Result<&'a str, DecodeError> {
        let end = self
            .rest
            .iter()
            .position(|&byte| byte == 0)
            .ok_or(DecodeError::Truncated)?;
        let text = std::str::from_utf8(self.bytes(end)?).map_err(|_| DecodeError::NotUtf8)?;
        self.u8()?;
        Ok(text)
    }

    /// Ends the message. Bytes left over are an error: they were not understood.
    pub(crate) fn finish(self) -> Result<(), DecodeError> {
        match self.rest.len() {
            0 => Ok(()),
            count => Err(DecodeError::TrailingBytes(count)),
        }
    }
}
