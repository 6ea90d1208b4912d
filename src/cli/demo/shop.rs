//! `demo`'s shop: a typical service database, and a service that writes orders into it.
//!
//! Every fifth order is rolled back after its event was written; every third of the others has two
//! events in one transaction.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use outboxd::config::{Config, Settings};
use outboxd::outbox::{NewEvent, Writer};
use outboxd::postgres::setup::Setup;
use outboxd::postgres::{self, Session};
use serde_json::json;
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;

use crate::cli::demo::tally::Order;
use outboxd::ephemeral::Server;

/// The database; the slot is named after it.
pub(crate) const DATABASE: &str = "shop";

/// The publisher's role, with the privileges that `init --role` grants.
pub(crate) const PUBLISHER: &str = "outboxd";

const OWNER: &str = "postgres";
const TIMEOUT: Duration = Duration::from_secs(30);
const CUSTOMERS: [&str; 5] = ["Ada", "Grace", "Edsger", "Barbara", "Leslie"];

/// A session of the database's owner.
pub(crate) async fn connect(server: &Server, database: &str) -> Result<Session> {
    let url = server.unix_url(database, OWNER) + "?sslmode=disable";
    let settings = Settings {
        database_url: Some(url),
        ..Settings::default()
    };
    let config = Config::without_kafka(settings)?;
    Ok(postgres::connect(&config.database, "outboxd demo", TIMEOUT).await?)
}

/// Creates the database, the objects that `init` creates, and the shop's own table.
pub(crate) async fn build(server: &Server, config: &Config) -> Result<()> {
    let maintenance = connect(server, "postgres").await?;
    maintenance
        .run(
            "creating the database",
            &format!("CREATE DATABASE {DATABASE}"),
        )
        .await?;
    let session = connect(server, DATABASE).await?;
    let setup = Setup {
        config,
        role: Some(PUBLISHER),
        replication_role: None,
        checks: false,
        partitioned: None,
    };
    for step in setup.steps(false) {
        session
            .run(&format!("creating {}", step.purpose), &step.sql)
            .await?;
    }
    let orders = "CREATE TABLE public.orders (
        number bigint PRIMARY KEY, customer text NOT NULL, cents integer NOT NULL)";
    Ok(session.run("creating the table of orders", orders).await?)
}

/// The shop's volume and rate.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// The topic of its events.
    pub(crate) topic: String,
    /// The number of events to commit; `None` continues until stopped.
    pub(crate) events: Option<u64>,
    /// Events per second.
    pub(crate) rate: u32,
}

/// Writes orders until the plan is complete or `stop` is set, and announces each on `orders`.
pub(crate) async fn trade(
    mut session: Session,
    plan: Plan,
    orders: mpsc::Sender<Order>,
    stop: watch::Receiver<bool>,
) -> Result<()> {
    let writer = Writer::new("outbox.outbox")?;
    let mut pace = tokio::time::interval(Duration::from_secs(1) / plan.rate);
    pace.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut left = plan.events.unwrap_or(u64::MAX);
    for number in 1.. {
        if left == 0 || *stop.borrow() {
            break;
        }
        let rolled_back = number % 5 == 0;
        let count = if number % 3 == 0 && !rolled_back && left > 1 {
            2
        } else {
            1
        };
        for _ in 0..count {
            pace.tick().await;
        }
        let transaction = session
            .transaction()
            .await
            .context("cannot begin an order")?;
        let customer = CUSTOMERS[number as usize % CUSTOMERS.len()];
        let cents = 990 + (number % 97) as i32 * 35;
        let insert = "INSERT INTO public.orders VALUES ($1, $2, $3)";
        let placed = transaction
            .execute(insert, &[&(number as i64), &customer, &cents])
            .await;
        placed.context("cannot write an order")?;
        let payload = json!({ "order": number, "customer": customer, "cents": cents });
        let mut events = Vec::with_capacity(count);
        for event_type in ["OrderPlaced", "StockReserved"].into_iter().take(count) {
            let event = NewEvent::new(event_type, &plan.topic, &payload);
            events.push((writer.write_event(&transaction, &event).await?, event_type));
        }
        // Announced before the transaction ends: a consumer may see the event before the commit
        // returns here.
        let sent = if rolled_back {
            let sent = orders.send(Order::RolledBack { number, events }).await;
            transaction
                .rollback()
                .await
                .context("cannot roll an order back")?;
            sent
        } else {
            left -= count as u64;
            let sent = orders
                .send(Order::Placed {
                    number,
                    events,
                    at: Instant::now(),
                })
                .await;
            transaction
                .commit()
                .await
                .context("cannot commit an order")?;
            sent
        };
        if sent.is_err() {
            break;
        }
    }
    Ok(())
}
