//! The standard metrics of a process, read from `/proc` at each scrape.
//!
//! Their names are those that the client libraries of Prometheus agree on. A value that cannot be
//! read is absent.

use std::fmt;

use procfs::process::{LimitValue, Process};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::metrics::names::{
    CPU_SECONDS, MAX_FDS, OPEN_FDS, RESIDENT_MEMORY, START_TIME, VIRTUAL_MEMORY, stem,
};

/// See the module's head.
#[derive(Debug)]
pub(super) struct ProcessMetrics;

impl Collector for ProcessMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Ok(process) = Process::myself() else {
            return Ok(());
        };
        if let Ok(stat) = process.stat() {
            let ticks = procfs::ticks_per_second() as f64;
            let cpu = ConstCounter::new((stat.utime + stat.stime) as f64 / ticks);
            let help = "User and system CPU time of the process";
            write(&mut encoder, stem(CPU_SECONDS), help, &cpu)?;
            let resident = ConstGauge::new(stat.rss * procfs::page_size());
            write(&mut encoder, RESIDENT_MEMORY, "Resident memory", &resident)?;
            let virtual_memory = ConstGauge::new(stat.vsize);
            write(
                &mut encoder,
                VIRTUAL_MEMORY,
                "Virtual memory",
                &virtual_memory,
            )?;
            if let Ok(boot) = procfs::boot_time_secs() {
                let start = ConstGauge::new(boot as f64 + stat.starttime as f64 / ticks);
                let help = "Start of the process, in seconds since 1970";
                write(&mut encoder, START_TIME, help, &start)?;
            }
        }
        if let Ok(open) = process.fd_count() {
            let open = ConstGauge::new(open as u64);
            write(&mut encoder, OPEN_FDS, "Open file descriptors", &open)?;
        }
        if let Ok(LimitValue::Value(most)) = process.limits().map(|it| it.max_open_files.soft_limit)
        {
            let help = "The most file descriptors that may be open";
            write(&mut encoder, MAX_FDS, help, &ConstGauge::new(most))?;
        }
        Ok(())
    }
}

fn write(
    encoder: &mut DescriptorEncoder<'_>,
    name: &'static str,
    help: &str,
    metric: &impl EncodeMetric,
) -> fmt::Result {
    let encoder = encoder.encode_descriptor(name, help, None, metric.metric_type())?;
    metric.encode(encoder)
}
