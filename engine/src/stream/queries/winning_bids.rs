//! The winning bid of each auction, when the auction closes: what Nexmark q4 and q6 begin with.
//!
//! ```text
//! auctions --id----┐
//!                  ├-- winning bids
//! bids ---auction--┘
//! ```
//! A bid counts if its time is from the auction's opening to its end; the highest wins. What is known at the end is known when
//! the watermark reaches it. Bids may come before their auction, from another partition: they wait until the watermark has
//! passed their time, for after that no auction can come that was open then.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::nexmark_events::{Auction, Bid, Event};
use crate::state::{ListState, ValueState};
use crate::stream::Error;
use crate::stream::functions::{CoProcessFunction, Collector};
use crate::stream::job::Stream;
use crate::stream::operator::Context;

/// An auction that has closed with at least one bid.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Sale {
    /// Which auction.
    pub auction: u64,
    /// Of what.
    pub category: u64,
    /// Who sold.
    pub seller: u64,
    /// For how much.
    pub price: u64,
    /// When the auction closed, in milliseconds.
    pub closed_ms: i64,
}

struct WinningBids;

const AUCTION: ValueState<Auction> = ValueState::new("auction");
const HIGHEST: ValueState<u64> = ValueState::new("highest");
const EARLY: ListState<Bid> = ListState::new("early");

fn counts(auction: &Auction, bid: &Bid) -> bool {
    (auction.date_time..=auction.expires).contains(&bid.date_time)
}

#[async_trait]
impl CoProcessFunction<u64, Auction, Bid> for WinningBids {
    type Out = Sale;

    async fn process_left(
        &mut self,
        _: &u64,
        auction: Auction,
        context: &mut Context<'_>,
        _: &mut Collector<'_, Sale>,
    ) -> Result<(), Error> {
        let early = EARLY.get(context).await?;
        EARLY.clear(context).await?;
        let highest = early.iter().filter(|bid| counts(&auction, bid)).map(|bid| bid.price).max();
        if let Some(highest) = highest {
            HIGHEST.put(context, &highest).await?;
        }
        AUCTION.put(context, &auction).await?;
        Ok(context.set_timer(auction.expires, &[]).await?)
    }

    async fn process_right(
        &mut self,
        _: &u64,
        bid: Bid,
        context: &mut Context<'_>,
        _: &mut Collector<'_, Sale>,
    ) -> Result<(), Error> {
        match AUCTION.get(context).await? {
            None => {
                EARLY.add(context, &bid).await?;
                context.set_timer(bid.date_time, &[]).await?;
            }
            Some(auction) if counts(&auction, &bid) => {
                let highest = HIGHEST.get(context).await?.unwrap_or(0);
                HIGHEST.put(context, &highest.max(bid.price)).await?;
            }
            Some(_) => {}
        }
        Ok(())
    }

    async fn on_timer(
        &mut self,
        _: &u64,
        time_ms: i64,
        context: &mut Context<'_>,
        out: &mut Collector<'_, Sale>,
    ) -> Result<(), Error> {
        let Some(auction) = AUCTION.get(context).await? else {
            let early = EARLY.get(context).await?;
            EARLY.clear(context).await?;
            for bid in early.iter().filter(|bid| bid.date_time > time_ms) {
                EARLY.add(context, bid).await?;
            }
            return Ok(());
        };
        if auction.expires > time_ms {
            // Of a bid that came before the auction.
            return Ok(());
        }
        if let Some(price) = HIGHEST.get(context).await? {
            let Auction { id, category, seller, expires, .. } = auction;
            out.collect(Sale { auction: id, category, seller, price, closed_ms: expires });
        }
        AUCTION.clear(context).await?;
        Ok(HIGHEST.clear(context).await?)
    }
}

/// The stream of sales.
pub(super) fn sales(events: &dyn Fn() -> Stream<Event>) -> Stream<Sale> {
    let auctions = events().flat_map(Event::auction).key_by(|auction| auction.id);
    let bids = events().flat_map(Event::bid).key_by(|bid| bid.auction);
    auctions.join(bids).process("winning_bids", || WinningBids)
}

/// The sales among events, computed by comparing each bid with each auction.
pub(super) fn expected_sales(events: &[Event]) -> Vec<Sale> {
    let mut sales = Vec::new();
    for event in events {
        let Event::Auction(auction) = event else { continue };
        let mut price = None;
        for event in events {
            if let Event::Bid(bid) = event
                && bid.auction == auction.id
                && bid.date_time >= auction.date_time
                && bid.date_time <= auction.expires
                && price.is_none_or(|highest| highest < bid.price)
            {
                price = Some(bid.price);
            }
        }
        if let Some(price) = price {
            let Auction { id, category, seller, expires, .. } = *auction;
            sales.push(Sale { auction: id, category, seller, price, closed_ms: expires });
        }
    }
    sales
}
