//! What keeps an event from being known: none of it is called missing.
