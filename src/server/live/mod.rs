//! The live feed: the figures of each second and of the last 15 minutes, for the live page and other viewers.
//!
//! The control thread samples each second whether somebody looks or not, so that a viewer sees the past at once. The JSON
//! is made once a second for all viewers, and only while there is one.

pub(super) mod feed;
mod history;
pub(super) mod message;
mod recent_requests;
mod rounded;
pub(super) mod sampler;
pub(super) mod viewer;
mod window;
