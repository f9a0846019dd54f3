//! The live feed and the live page on the admin listener.

mod admin_security;
mod feed;
