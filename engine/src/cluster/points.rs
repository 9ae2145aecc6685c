//! Points of this module; see [`cutwater_io::points`].

cutwater_io::points! {}
