//! CPU time of tokenweir compared with nginx, for the whole process tree, with the same load and the same origin.
//!
//! `cargo bench --bench nginx [-- small|stream|prompt] [--rounds N] [--noise]`
//!
//! Rounds are interleaved (nginx, tokenweir, nginx, tokenweir, ...): absolute numbers drift on a shared machine, while
//! the ratio within a round holds. `--noise` runs nginx on both sides, so its ratios show the noise. Access logs are
//! off on both sides. Origin and load run in this process and are not counted.
#![expect(clippy::disallowed_methods, reason = "a stopwatch around a load from outside; nothing here is routed")]

mod contender;
mod load;
mod origin;

use std::error::Error;
use std::time::{Duration, Instant};

use contender::{ProxyUnderTest, ScratchDir};
use load::OpenStreams;

const CONNECTION_COUNT: u64 = 64;
const STREAM_COUNT: u64 = 300;
const MEASURING_WINDOW: Duration = Duration::from_secs(4);

/// A kind of load.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Workload {
    Small,
    Stream,
    Prompt,
}

/// The cost of one run.
struct RunCost {
    /// CPU microseconds per request or event.
    unit_us: f64,
    /// Requests or events per second of wall clock.
    rate: f64,
}

struct NginxBenchOptions {
    workloads: Vec<Workload>,
    rounds: usize,
    noise: bool,
}

fn main() -> Result<(), Box<dyn Error>> {
    let options = NginxBenchOptions::from_args(std::env::args().skip(1))?;
    let Some(nginx) = contender::find_nginx() else {
        println!("nginx is not installed, so there is nothing to compare with: apt-get install nginx-light");
        return Ok(());
    };
    let origin = origin::start_origin()?;
    let scratch = ScratchDir::new()?;
    let one = contender::start_nginx(nginx, "nginx", &scratch, origin)?;
    let two = match options.noise {
        true => contender::start_nginx(nginx, "nginx again", &scratch, origin)?,
        false => contender::start_tokenweir(&scratch, origin)?,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    println!("CPU of the whole process tree, user and system; two origins, round robin, access logs off on both sides");
    for work in options.workloads {
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

impl NginxBenchOptions {
    fn from_args(args: impl Iterator<Item = String>) -> Result<Self, Box<dyn Error>> {
        let mut options = Self { workloads: Vec::new(), rounds: 5, noise: false };
        let mut args = args;
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "small" => options.workloads.push(Workload::Small),
                "stream" => options.workloads.push(Workload::Stream),
                "prompt" => options.workloads.push(Workload::Prompt),
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
        if options.workloads.is_empty() {
            options.workloads = vec![Workload::Small, Workload::Stream, Workload::Prompt];
        }
        Ok(options)
    }
}

impl Workload {
    fn title(self) -> String {
        match self {
            Self::Small => format!(
                "small: chat request of {} bytes, whole answer, {CONNECTION_COUNT} keep-alive connections; per request",
                load::small_body().len()
            ),
            Self::Stream => {
                format!("stream: {STREAM_COUNT} open streams, an event each {:?}; per event", origin::EVENT_INTERVAL)
            }
            Self::Prompt => "prompt: chat request of 1 MiB, 8 connections; per request".into(),
        }
    }

    async fn warm_up(self, proxy: &ProxyUnderTest) -> Result<(), Box<dyn Error>> {
        match self {
            Self::Small => load::send_requests(proxy.port, CONNECTION_COUNT, 4_000, &load::small_body()).await?,
            Self::Stream => {}
            Self::Prompt => load::send_requests(proxy.port, 8, 40, &load::long_body()).await?,
        }
        Ok(())
    }

    async fn run(self, proxy: &ProxyUnderTest) -> Result<RunCost, Box<dyn Error>> {
        match self {
            Self::Small => measure_requests(proxy, CONNECTION_COUNT, 100_000, &load::small_body()).await,
            Self::Stream => measure_streams(proxy).await,
            Self::Prompt => measure_requests(proxy, 8, 1_600, &load::long_body()).await,
        }
    }
}

async fn measure_requests(
    proxy: &ProxyUnderTest,
    connections: u64,
    count: u64,
    body: &str,
) -> Result<RunCost, Box<dyn Error>> {
    let (before, began) = (proxy.cpu_time()?, Instant::now());
    load::send_requests(proxy.port, connections, count, body).await?;
    Ok(RunCost::new(proxy.cpu_time()? - before, began.elapsed(), count))
}

/// Measures a window in the middle of the streams, which excludes opening and closing.
async fn measure_streams(proxy: &ProxyUnderTest) -> Result<RunCost, Box<dyn Error>> {
    let mut streams = OpenStreams::open(proxy.stream_port, STREAM_COUNT);
    let began = Instant::now();
    while streams.flowing() < STREAM_COUNT {
        streams.check_open()?;
        if began.elapsed() > Duration::from_secs(20) {
            return Err(
                format!("{} has only {} of {STREAM_COUNT} active streams", proxy.name, streams.flowing()).into()
            );
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let (before, began, seen) = (proxy.cpu_time()?, Instant::now(), streams.events());
    tokio::time::sleep(MEASURING_WINDOW).await;
    let cost = RunCost::new(proxy.cpu_time()? - before, began.elapsed(), streams.events() - seen);
    streams.check_open()?;
    drop(streams);
    tokio::time::sleep(Duration::from_millis(300)).await; // the origin notices, and the next round starts from rest
    Ok(cost)
}

impl RunCost {
    fn new(cpu: Duration, wall: Duration, units: u64) -> Self {
        let units = units as f64;
        Self { unit_us: cpu.as_secs_f64() * 1e6 / units, rate: units / wall.as_secs_f64() }
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
