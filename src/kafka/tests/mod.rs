mod broker;
mod metadata;
pub(crate) mod producer;
mod server;
mod survey;
