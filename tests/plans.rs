//! Plans of the shipped scenarios: whatever they are made from, they are valid and survive being written down.
#![cfg(madsim)]

use cutwater_scenarios::ALL;
use cutwater_sim::Plan;
use cutwater_sim::strategy::plans;
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_bytes_make_a_plan(which in 0..ALL.len(), seed: u64, bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let scenario = ALL[which];
        let mut unstructured = arbitrary::Unstructured::new(&bytes);
        let from_bytes = Plan::arbitrary(scenario.name(), &scenario.vocabulary(), &mut unstructured).unwrap();
        for plan in [from_bytes, scenario.generate(seed)] {
            prop_assert_eq!(plan.validate(&scenario.vocabulary()).map_err(|e| e.to_string()), Ok(()));
            prop_assert_eq!(Plan::from_json(&plan.to_json()).unwrap(), plan);
        }
    }

    #[test]
    fn a_seed_names_one_plan(which in 0..ALL.len(), seed: u64) {
        prop_assert_eq!(ALL[which].generate(seed), ALL[which].generate(seed));
    }

    #[test]
    fn the_strategy_makes_valid_plans(plan in plans("store", ALL[0].vocabulary())) {
        prop_assert!(plan.validate(&ALL[0].vocabulary()).is_ok());
    }
}
