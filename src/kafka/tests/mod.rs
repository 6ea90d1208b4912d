mod broker;
mod metadata;
mod placing;
pub(crate) mod producer;
mod server;
mod survey;
