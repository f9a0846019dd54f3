//! What tokenweir costs beside nginx: CPU time of the whole process tree, for the same load on the same origin.
//!
//! `cargo bench --bench nginx [-- small|stream|prompt] [--rounds N] [--noise]`
//!
//! Rounds are interleaved (nginx, tokenweir, nginx, tokenweir, ...), because absolute numbers drift on a shared machine
//! while the ratio within a round holds. `--noise` puts nginx on both sides: its ratios show how much is chance. Access
//! logs are off on both sides; origin and load run in this process and are not counted.
#![expect(clippy::disallowed_methods, reason = "a stopwatch around a load from outside; nothing here is routed")]

mod contender;
mod load;
mod origin;

use std::error::Error;
use std::time::{Duration, Instant};

use contender::{Contender, Scratch};
use load::Streams;

const CONNECTIONS: u64 = 64;
const STREAMS: u64 = 300;
const WINDOW: Duration = Duration::from_secs(4);

/// A kind of load.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Work {
    Small,
    Stream,
    Prompt,
}

/// What one run of a load took.
struct Cost {
    /// CPU microseconds per request or event.
    unit_us: f64,
    /// Requests or events a second of wall clock: how hard the proxy was driven.
    rate: f64,
}

struct Options {
    work: Vec<Work>,
    rounds: usize,
    noise: bool,
}

fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::from_args(std::env::args().skip(1))?;
    let Some(nginx) = contender::find_nginx() else {
        println!("nginx is not installed, so there is nothing to compare with: apt-get install nginx-light");
        return Ok(());
    };
    let origin = origin::start()?;
    let scratch = Scratch::new()?;
    let one = contender::nginx(nginx, "nginx", &scratch, origin)?;
    let two = match options.noise {
        true => contender::nginx(nginx, "nginx again", &scratch, origin)?,
        false => contender::tokenweir(&scratch, origin)?,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    println!("CPU of the whole process tree, user and system; two origins, round robin, access logs off on both sides");
    for work in options.work {
        println!("\n{}", work.title());
        println!("{:>8} {:>14} {:>14} {:>8} {:>12} {:>12}", "round", one.name, two.name, "ratio", "rate", "rate");
        let mut rows = Vec::new();
        for proxy in [&one, &two] {
            runtime.block_on(work.warm_up(proxy))?;
        }
        for round in 1..=options.rounds {
            let first = runtime.block_on(work.run(&one))?;
            let second = runtime.block_on(work.run(&two))?;
            let ratio = second.unit_us / first.unit_us;
            println!(
                "{round:>8} {:>11.1} us {:>11.1} us {ratio:>8.2} {:>10.0}/s {:>10.0}/s",
                first.unit_us, second.unit_us, first.rate, second.rate
            );
            rows.push((first.unit_us, second.unit_us, ratio));
        }
        let middle = |column: fn(&(f64, f64, f64)) -> f64| median(rows.iter().map(column).collect());
        let (first, second, ratio) = (middle(|r| r.0), middle(|r| r.1), middle(|r| r.2));
        println!("{:>8} {first:>11.1} us {second:>11.1} us {ratio:>8.2}", "median");
    }
    Ok(())
}

impl Options {
    fn from_args(args: impl Iterator<Item = String>) -> Result<Self, Box<dyn Error>> {
        let mut options = Self { work: Vec::new(), rounds: 5, noise: false };
        let mut args = args;
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "small" => options.work.push(Work::Small),
                "stream" => options.work.push(Work::Stream),
                "prompt" => options.work.push(Work::Prompt),
                "--rounds" => options.rounds = args.next().ok_or("--rounds needs a number")?.parse()?,
                "--noise" => options.noise = true,
                "--bench" => {} // cargo adds it
                other => {
                    return Err(
                        format!("unknown argument `{other}`: small, stream, prompt, --rounds N, --noise").into()
                    );
                }
            }
        }
        if options.work.is_empty() {
            options.work = vec![Work::Small, Work::Stream, Work::Prompt];
        }
        Ok(options)
    }
}

impl Work {
    fn title(self) -> String {
        match self {
            Self::Small => format!(
                "small: chat request of {} bytes, whole answer, {CONNECTIONS} keep-alive connections; per request",
                load::small().len()
            ),
            Self::Stream => format!("stream: {STREAMS} open streams, an event each {:?}; per event", origin::EVENT_GAP),
            Self::Prompt => "prompt: chat request of 1 MiB, 8 connections; per request".into(),
        }
    }

    async fn warm_up(self, proxy: &Contender) -> Result<(), Box<dyn Error>> {
        match self {
            Self::Small => load::requests(proxy.port, CONNECTIONS, 4_000, &load::small()).await?,
            Self::Stream => {}
            Self::Prompt => load::requests(proxy.port, 8, 40, &load::long()).await?,
        }
        Ok(())
    }

    async fn run(self, proxy: &Contender) -> Result<Cost, Box<dyn Error>> {
        match self {
            Self::Small => requests(proxy, CONNECTIONS, 100_000, &load::small()).await,
            Self::Stream => streams(proxy).await,
            Self::Prompt => requests(proxy, 8, 1_600, &load::long()).await,
        }
    }
}

async fn requests(proxy: &Contender, connections: u64, count: u64, body: &str) -> Result<Cost, Box<dyn Error>> {
    let (before, began) = (proxy.cpu()?, Instant::now());
    load::requests(proxy.port, connections, count, body).await?;
    Ok(Cost::of(proxy.cpu()? - before, began.elapsed(), count))
}

/// Measures a window in the midst of the streams, so that opening and closing them is not in it.
async fn streams(proxy: &Contender) -> Result<Cost, Box<dyn Error>> {
    let mut streams = Streams::open(proxy.stream_port, STREAMS);
    let began = Instant::now();
    while streams.flowing() < STREAMS {
        streams.check()?;
        if began.elapsed() > Duration::from_secs(20) {
            return Err(format!("{} has only {} of {STREAMS} streams flowing", proxy.name, streams.flowing()).into());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let (before, began, seen) = (proxy.cpu()?, Instant::now(), streams.events());
    tokio::time::sleep(WINDOW).await;
    let cost = Cost::of(proxy.cpu()? - before, began.elapsed(), streams.events() - seen);
    streams.check()?;
    drop(streams);
    tokio::time::sleep(Duration::from_millis(300)).await; // the origin notices, and the next round starts from rest
    Ok(cost)
}

impl Cost {
    fn of(cpu: Duration, wall: Duration, units: u64) -> Self {
        let units = units as f64;
        Self { unit_us: cpu.as_secs_f64() * 1e6 / units, rate: units / wall.as_secs_f64() }
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
