//! stub
pub mod points;
