//! Nexmark q6: of each seller the average price of the last ten things that were sold, with each sale.
//!
//! ```text
//! winning bids --seller--> last ten --> sink
//! ```
//! Sales count in the order in which the auctions closed (then of their numbers), not in that in which they arrive: a sale
//! waits until the watermark says that no earlier one can come. Averages are rounded down.

use std::collections::BTreeMap;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::nexmark_events::{self, json};
use super::winning_bids::{Sale, expected_sales, sales};
use super::{Rows, UnknownQuery};
use crate::cluster::rpc::JobSpec;
use crate::state::{MapState, ValueState};
use crate::stream::Error;
use crate::stream::functions::{Collector, ProcessFunction};
use crate::stream::graph::JobGraph;
use crate::stream::operator::Context;

/// Name of the query.
pub const NAME: &str = "q6";

const LAST: usize = 10;

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Row {
    seller: u64,
    auction: u64,
    average: u64,
}

struct LastTen;

/// Price by closing time and auction.
const PENDING: MapState<(i64, u64), u64> = MapState::new("pending");
/// Prices, oldest first.
const PRICES: ValueState<Vec<u64>> = ValueState::new("prices");

#[async_trait]
impl ProcessFunction<u64, Sale> for LastTen {
    type Out = Row;

    async fn process(
        &mut self,
        _: &u64,
        sale: Sale,
        context: &mut Context<'_>,
        _: &mut Collector<'_, Row>,
    ) -> Result<(), Error> {
        PENDING.put(context, &(sale.closed_ms, sale.auction), &sale.price).await?;
        Ok(context.set_timer(sale.closed_ms, &[]).await?)
    }

    async fn on_timer(
        &mut self,
        seller: &u64,
        time_ms: i64,
        context: &mut Context<'_>,
        out: &mut Collector<'_, Row>,
    ) -> Result<(), Error> {
        let mut due = PENDING.entries(context).await?;
        due.retain(|((closed_ms, _), _)| *closed_ms <= time_ms);
        due.sort_unstable();
        let mut prices = PRICES.get(context).await?.unwrap_or_default();
        for (sale, price) in due {
            PENDING.remove(context, &sale).await?;
            prices.push(price);
            if prices.len() > LAST {
                prices.remove(0);
            }
            let average = prices.iter().sum::<u64>() / prices.len() as u64;
            out.collect(Row { seller: *seller, auction: sale.1, average });
        }
        Ok(PRICES.put(context, &prices).await?)
    }
}

/// The graph; see [`super::build`].
///
/// # Errors
/// If a parameter does not fit.
pub fn build(job: &JobSpec) -> Result<JobGraph, UnknownQuery> {
    nexmark_events::build(NAME, job, |events| {
        sales(events)
            .key_by(|sale| sale.seller)
            .process("last_ten", || LastTen)
            .sink("sink", |row| json(&row));
    })
}

/// See [`super::expected`].
///
/// # Errors
/// If a parameter does not fit.
pub fn expected(job: &JobSpec) -> Result<Rows, UnknownQuery> {
    nexmark_events::expected(NAME, job, |events| {
        let mut sales = expected_sales(&events);
        sales.sort_by_key(|sale| (sale.closed_ms, sale.auction));
        let mut by_seller: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        let mut rows = Vec::new();
        for sale in sales {
            let prices = by_seller.entry(sale.seller).or_default();
            prices.push(sale.price);
            let last = &prices[prices.len().saturating_sub(10)..];
            let average = last.iter().sum::<u64>() / last.len() as u64;
            rows.push(Row { seller: sale.seller, auction: sale.auction, average });
        }
        rows
    })
}
