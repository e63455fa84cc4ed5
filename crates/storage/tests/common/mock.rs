//! The registry that does what a test tells it to, which tests of whole agents have too.

pub use tests::mock::{Asked, Body, Content, Cut, Mock, Reply};
