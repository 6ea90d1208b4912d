//! Tokens for SASL's OAUTHBEARER: fetched once for all clients, and renewed before they end.
//!
//! librdkafka asks for a token by an event on a client's main queue, and wants the answer at once.
//! A command or an identity provider takes longer, and clients for requests read no events. So a
//! client gets the token that is valid when it is made, and the producer, which lives longer, gets
//! each later one as it comes ([`TokenRenewal`]).
//!
//! After a failure the next attempt waits, for every client alike, and the last token is used while
//! it is valid. Neither a token nor a secret is part of an error or a log line.

mod provider;
mod renewal;
mod tokens;

pub(super) use renewal::{News, TokenRenewal};
pub(super) use tokens::{log_in, token};
