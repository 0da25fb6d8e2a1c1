//! The service through its front door: the real client and raw messages against a fake engine.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod fake;
mod front;
mod proxy;

mod asking;
mod following;
mod resuming;
mod standing;
mod uploading;
