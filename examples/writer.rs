//! Writes an event in the transaction that it reports.
//!
//! ```sh
//! cargo run --no-default-features --example writer -- postgres://postgres@localhost/shop orders
//! ```

use outboxd::{NewEvent, Writer};
use serde_json::json;
use tokio_postgres::NoTls;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(url), Some(topic)) = (arguments.next(), arguments.next()) else {
        return Err("usage: writer DATABASE_URL TOPIC".into());
    };
    let (mut client, connection) = tokio_postgres::connect(&url, NoTls).await?;
    tokio::spawn(connection);
    let orders = "CREATE TABLE IF NOT EXISTS orders (number bigint GENERATED ALWAYS AS IDENTITY)";
    client.batch_execute(orders).await?;
    // A service keeps the connection and the prepared statement for many events.
    let writer = Writer::new("outbox.outbox")?.prepare(&client).await?;

    let transaction = client.transaction().await?;
    let insert = "INSERT INTO orders DEFAULT VALUES RETURNING number";
    let number: i64 = transaction.query_one(insert, &[]).await?.get(0);
    let order = json!({ "number": number });
    let event = NewEvent::new("OrderCreated", &topic, &order);
    let id = writer.write_event(&transaction, &event).await?;
    // The order and its event commit together, or neither does.
    transaction.commit().await?;

    println!("order {number}: event {id} is in the outbox");
    Ok(())
}
