//! Floor 1: reading requests. Which endpoint a path is, what a body says that a router must know, and how a body is
//! edited without being written anew.
//!
//! Bodies are borrowed, never owned: unknown members pass unread, and an edit replaces a range of bytes.

mod bad_body;
mod census;
mod count;
pub mod endpoint;
mod estimator;
mod json;
pub mod multipart;
mod opening;
mod prefix;
mod request;
mod splice;
mod walk;

pub use bad_body::BadBody;
pub use census::Census;
pub use count::{COUNTED_BYTES, Vocabulary};
pub use endpoint::Endpoint;
pub use estimator::{Estimator, MediaTokens};
pub use opening::opening;
pub use prefix::{Prefix, survey};
pub use request::{Keys, Model, Request, Text};
pub use splice::{BadEdit, Edit, Pieces, splice};
pub use walk::{Media, Piece, walk};
