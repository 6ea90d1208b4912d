//! Runs the publisher inside a program, until Ctrl-C.
//!
//! ```sh
//! cargo run --example embed -- postgres://outboxd@localhost/shop localhost:9092
//! ```

use std::time::Duration;

use outboxd::{Config, Publisher, Settings};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    // What is not set here has its default; `outboxd init` has made table and publication before.
    let settings = Settings {
        database_url: arguments.next(),
        kafka_brokers: arguments.next(),
        ..Settings::default()
    };
    let mut publisher = Publisher::new(Config::from_settings(settings)?);
    publisher.start().await?;
    let mut every_second = tokio::time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            // It tries again by itself; an error here needs a person.
            ended = publisher.ended() => return Ok(ended?),
            _ = tokio::signal::ctrl_c() => break,
            _ = every_second.tick() => {
                let status = publisher.status();
                println!("{:?}, {} published", status.phase, status.published_total);
            }
        }
    }
    // Waits for Kafka's acknowledgements, writes back and confirms to the slot.
    publisher.stop().await?;
    println!("stopped");
    Ok(())
}
