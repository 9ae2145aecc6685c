//! x
#![cfg(madsim)]
