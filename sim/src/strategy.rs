//! Plans for property tests.
//!
//! Every value is a valid plan. proptest shrinks the bytes that a plan is built from; fewer and smaller bytes make fewer
//! operations, fewer faults and simpler choices.

use arbitrary::Unstructured;
use proptest::collection::vec;
use proptest::prelude::*;

use crate::plan::Plan;
use crate::vocabulary::Vocabulary;

/// How many bytes a plan is built from at the most; choices beyond them are the simplest.
const BYTES_MAX: usize = 4096;

/// Plans of a scenario.
pub fn plans(scenario: &'static str, vocabulary: Vocabulary) -> impl Strategy<Value = Plan> {
    vec(any::<u8>(), 0..BYTES_MAX).prop_map(move |bytes| {
        Plan::arbitrary(scenario, &vocabulary, &mut Unstructured::new(&bytes)).expect("any bytes make a plan")
    })
}
