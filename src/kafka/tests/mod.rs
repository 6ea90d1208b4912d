mod broker;
mod metadata;
mod producer;
mod server;
