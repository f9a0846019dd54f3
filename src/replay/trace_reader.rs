//! Reads traces: our own JSON lines, Mooncake's, and Azure's CSV, plain or gzip.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::time::Duration;

use flate2::bufread::MultiGzDecoder;
use serde::Deserialize;
use thiserror::Error;

use super::trace::{BlockRun, Trace, TraceRequest};
use crate::units::Tokens;

/// Longest line.
const MAX_LINE_BYTES: u64 = 16 << 20;
/// Longest prompt or answer.
const MAX_TOKENS: u64 = 1 << 24;
/// Tokens per block if a line does not set them: Mooncake's.
const DEFAULT_BLOCK_TOKENS: u64 = 512;
/// The first bytes of a gzip file.
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// An unusable trace.
#[derive(Debug, Error)]
pub enum TraceError {
    /// The file cannot be read.
    #[error("cannot read {name}: {cause}")]
    Unreadable {
        /// The file.
        name: String,
        /// The cause.
        cause: std::io::Error,
    },
    /// A line is not a request.
    #[error("{name}:{line}: {reason}")]
    InvalidLine {
        /// The file.
        name: String,
        /// The line, from 1.
        line: usize,
        /// The mistake.
        reason: String,
    },
    /// The trace is empty.
    #[error("{name}: no request found")]
    Empty {
        /// The file.
        name: String,
    },
}

/// A line of JSON, with our names or Mooncake's.
#[derive(Deserialize)]
struct TraceRow {
    #[serde(alias = "timestamp")]
    timestamp_ms: f64,
    #[serde(alias = "input_length")]
    input_tokens: u64,
    #[serde(alias = "output_length")]
    output_tokens: u64,
    block_tokens: Option<u64>,
    block_runs: Option<Vec<u64>>,
    hash_ids: Option<Vec<u64>>,
    session: Option<u64>,
    #[serde(default)]
    turn: u32,
    think_ms: Option<f64>,
}

/// Reads a trace from a file.
///
/// *Errors*: as [`parse_trace`], or the file cannot be opened.
pub fn open_trace(path: &Path) -> Result<Trace, TraceError> {
    let name = path.display().to_string();
    match File::open(path) {
        Ok(file) => parse_trace(file, &name),
        Err(cause) => Err(TraceError::Unreadable { name, cause }),
    }
}

/// Reads a trace, plain or gzip: JSON lines, or CSV with a header.
///
/// *JSON*: `timestamp_ms`, `input_tokens`, `output_tokens`, and where known `block_tokens` with `block_runs` (`[first,
/// count, first, count, ...]`), `session`, `turn`, `think_ms`; or Mooncake's `timestamp` (ms), `input_length`,
/// `output_length`, `hash_ids` (512 tokens each). *CSV*: Azure's `TIMESTAMP`, `ContextTokens`, `GeneratedTokens`.
/// An answer of 0 tokens counts as 1.
///
/// *Errors*: the source cannot be read, a line is invalid, or there is no request. *Cost*: all requests are in memory.
pub fn parse_trace(source: impl Read, name: &str) -> Result<Trace, TraceError> {
    let unreadable = |cause| TraceError::Unreadable { name: name.to_owned(), cause };
    let mut source = BufReader::new(source);
    let compressed = source.fill_buf().map_err(unreadable)?.starts_with(&GZIP_MAGIC);
    let mut source: Box<dyn BufRead> =
        if compressed { Box::new(BufReader::new(MultiGzDecoder::new(source))) } else { Box::new(source) };
    let (mut requests, mut columns, mut line) = (Vec::new(), None, Vec::new());
    for number in 1.. {
        line.clear();
        let read = source.as_mut().take(MAX_LINE_BYTES).read_until(b'\n', &mut line).map_err(unreadable)?;
        if read == 0 {
            break;
        }
        let text = String::from_utf8_lossy(&line);
        let parsed = match (text.trim(), &columns) {
            ("", _) => continue,
            (text, None) if number == 1 && !text.starts_with('{') => CsvColumns::from_header(text).map(|found| {
                columns = Some(found);
                None
            }),
            (text, None) => parse_json_line(text).map(Some),
            (text, Some(columns)) => columns.parse_request(text).map(Some),
        };
        match parsed {
            Ok(request) => requests.extend(request),
            Err(reason) => return Err(TraceError::InvalidLine { name: name.to_owned(), line: number, reason }),
        }
    }
    if columns.is_some() {
        rebase_times(&mut requests);
    }
    if requests.is_empty() { Err(TraceError::Empty { name: name.to_owned() }) } else { Ok(Trace::new(requests)) }
}

/// Makes the times of a CSV file, which are dates, relative to the first one.
fn rebase_times(requests: &mut [TraceRequest]) {
    let first = requests.iter().map(|request| request.sent_at).min().unwrap_or_default();
    requests.iter_mut().for_each(|request| request.sent_at -= first);
}

fn parse_json_line(text: &str) -> Result<TraceRequest, String> {
    let line: TraceRow = serde_json::from_str(text).map_err(|error| {
        // serde_json counts lines from the start of each row, so its position is left out.
        let message = error.to_string();
        message.split(" at line ").next().unwrap_or(&message).to_owned()
    })?;
    let block = line.block_tokens.unwrap_or(DEFAULT_BLOCK_TOKENS);
    let blocks = match (line.block_runs, line.hash_ids) {
        (Some(runs), _) => parse_block_runs(&runs)?,
        (None, Some(ids)) => {
            // Mooncake also has an id for the text after the last full block, which caches cannot hold.
            let full = usize::try_from(line.input_tokens / block.max(1)).unwrap_or(usize::MAX);
            ids.iter().take(full).map(|id| BlockRun { first_id: *id, count: 1 }).collect()
        }
        (None, None) => Vec::new(),
    };
    let request = TraceRequest {
        sent_at: parse_millis(line.timestamp_ms, "timestamp")?,
        prompt: Tokens(line.input_tokens),
        output: Tokens(line.output_tokens.max(1)),
        block_size: Tokens(block),
        block_runs: blocks,
        session: line.session,
        turn: line.turn,
        think_time: line.think_ms.map(|think| parse_millis(think, "think_ms")).transpose()?,
    };
    validate_request(request)
}

fn validate_request(request: TraceRequest) -> Result<TraceRequest, String> {
    let (prompt, output) = (request.prompt.0, request.output.0);
    if prompt > MAX_TOKENS || output > MAX_TOKENS {
        return Err(format!("{} tokens are more than {MAX_TOKENS}", prompt.max(output)));
    }
    if !request.block_runs.is_empty() && request.block_size == Tokens(0) {
        return Err("block_tokens is 0".to_owned());
    }
    if request.block_tokens() > prompt {
        return Err(format!("the blocks have {} tokens and the prompt {prompt}", request.block_tokens()));
    }
    Ok(request)
}

fn parse_block_runs(runs: &[u64]) -> Result<Vec<BlockRun>, String> {
    let run = |pair: &[u64]| match pair {
        [first, count] => Ok(BlockRun { first_id: *first, count: *count }),
        _ => Err("block_runs has a first id without a count".to_owned()),
    };
    runs.chunks(2).map(run).collect()
}

fn parse_millis(ms: f64, field: &str) -> Result<Duration, String> {
    Duration::try_from_secs_f64(ms / 1_000.0).map_err(|_| format!("{field} is not a time: {ms}"))
}

/// The columns of a CSV file.
struct CsvColumns {
    time: usize,
    prompt: usize,
    output: usize,
}

impl CsvColumns {
    fn from_header(header: &str) -> Result<Self, String> {
        let names: Vec<String> = split_cells(header).map(str::to_ascii_lowercase).collect();
        let find = |name: &str| names.iter().position(|known| known == name);
        match (find("timestamp"), find("contexttokens"), find("generatedtokens")) {
            (Some(time), Some(prompt), Some(output)) => Ok(Self { time, prompt, output }),
            _ => Err("neither JSON nor a CSV header with TIMESTAMP,ContextTokens,GeneratedTokens".to_owned()),
        }
    }

    fn parse_request(&self, text: &str) -> Result<TraceRequest, String> {
        let cells: Vec<&str> = split_cells(text).collect();
        let cell = |column: usize| cells.get(column).copied().ok_or_else(|| format!("only {} columns", cells.len()));
        let tokens = |column: usize| {
            let text = cell(column)?;
            text.parse().map_err(|_| format!("`{text}` is not a number of tokens"))
        };
        let time = cell(self.time)?;
        validate_request(TraceRequest {
            sent_at: parse_time(time)
                .ok_or_else(|| format!("`{time}` is not a time such as 2023-11-16 18:15:46.6805900"))?,
            prompt: Tokens(tokens(self.prompt)?),
            output: Tokens(tokens(self.output)?.max(1)),
            ..TraceRequest::default()
        })
    }
}

fn split_cells(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(|cell| cell.trim().trim_matches('"'))
}

/// Parses `YYYY-MM-DD HH:MM:SS[.fraction]` as time since the year 0. An offset after it is ignored: all lines of a file
/// are assumed to have the same one.
fn parse_time(text: &str) -> Option<Duration> {
    let (date, time) = text.split_once([' ', 'T'])?;
    let [year, month, day] = parse_numbers(date, '-')?;
    let time = time.split(['+', '-', 'Z']).next()?;
    let (whole, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let [hour, minute, second] = parse_numbers(whole, ':')?;
    let in_range = (1..=12).contains(&month) && (1..=31).contains(&day) && year < 10_000;
    let clock_fits = hour < 24 && minute < 60 && second < 61;
    if !in_range || !clock_fits || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let fraction: f64 = format!("0.{fraction}").parse().ok()?;
    let seconds = ((count_days(year, month, day) * 24 + hour) * 60 + minute) * 60 + second;
    Some(Duration::from_secs(seconds) + Duration::try_from_secs_f64(fraction).ok()?)
}

fn parse_numbers(text: &str, separator: char) -> Option<[u64; 3]> {
    let numbers: Option<Vec<u64>> = text.split(separator).map(|part| part.parse().ok()).collect();
    numbers?.try_into().ok()
}

/// Returns the days since the first of March of the year 0. Years start in March, so that a leap day is the last of its
/// year.
fn count_days(year: u64, month: u64, day: u64) -> u64 {
    let (year, month) = if month > 2 { (year + 1, month - 3) } else { (year, month + 9) };
    year * 365 + year.saturating_sub(1) / 4 - year.saturating_sub(1) / 100
        + year.saturating_sub(1) / 400
        + (month * 153 + 2) / 5
        + day
}
