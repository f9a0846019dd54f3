//! Parser of the engine metrics of vLLM and SGLang, in Prometheus text, chunk by chunk.
//!
//! *Source*: names of vLLM 0.32 (`v1/metrics/loggers.py`; `gpu_cache_usage_perc` up to 0.9) and of SGLang
//! (`srt/metrics/collector.py`).

use std::collections::BTreeMap;

use crate::fleet::EngineStats;
use crate::units::Tokens;

/// Longest line that is read; vLLM's longest is below 2 KiB.
const MAX_LINE_BYTES: usize = 16 << 10;
/// Most engines behind one address; further ones count as one.
const MAX_ENGINES: usize = 256;

/// Parses an exposition chunk by chunk. *Memory*: one line, and a few numbers for each engine behind the address.
#[derive(Debug, Default)]
pub(super) struct MetricsParser {
    /// The beginning of the unfinished line.
    line: Vec<u8>,
    /// Whether the line is too long; its rest is skipped.
    is_overlong: bool,
    /// By the label that distinguishes the engines of one server; empty for a single engine.
    engines: BTreeMap<String, EngineGauges>,
    totals: EngineTotals,
}

/// Gauges of one engine; `None` if not reported. Several ranks report the same values, and the largest counts.
#[derive(Debug, Default)]
struct EngineGauges {
    running: Option<f64>,
    waiting: Option<f64>,
    kv_usage: Option<f64>,
    kv_capacity: Option<f64>,
    block_size: Option<f64>,
}

/// Sums over all engines; `None` if not reported.
#[derive(Debug, Default)]
struct EngineTotals {
    prompt_tokens: Option<f64>,
    cached_tokens: Option<f64>,
    generated_tokens: Option<f64>,
    /// Finished requests of vLLM, which counts prompts before.
    vllm_finished_requests: Option<f64>,
    /// Finished requests of SGLang, which counts prompts at the end.
    sglang_finished_requests: Option<f64>,
}

/// One sample, `name{labels} value`; label values keep their escapes.
struct MetricSample<'a> {
    name: &'a str,
    labels: Vec<(&'a str, &'a str)>,
    value: f64,
}

impl MetricsParser {
    /// Parses the next chunk.
    pub(super) fn push(&mut self, mut chunk: &[u8]) {
        while let Some(end) = memchr::memchr(b'\n', chunk) {
            let (head, rest) = chunk.split_at(end);
            self.append_to_line(head);
            self.end_line();
            chunk = rest.get(1..).unwrap_or_default();
        }
        self.append_to_line(chunk);
    }

    /// Returns the values of all engines; `None` if the exposition is no engine's.
    pub(super) fn finish(mut self) -> Option<EngineStats> {
        self.end_line();
        let sum_of = |value: fn(&EngineGauges) -> Option<f64>| sum_known(self.engines.values().map(value));
        let capacity = sum_of(|engine| engine.kv_capacity);
        // The usage of several engines is their mean, weighted by capacity.
        let usage = match capacity {
            Some(total) if self.engines.len() > 1 && total > 0.0 => {
                sum_of(|engine| engine.kv_usage.zip(engine.kv_capacity).map(|(usage, size)| usage * size))
                    .map(|used| used / total)
            }
            _ => sum_of(|engine| engine.kv_usage)
                .map(|sum| sum / self.engines.values().filter(|e| e.kv_usage.is_some()).count().max(1) as f64),
        };
        let running = sum_of(|engine| engine.running)?;
        let EngineTotals {
            prompt_tokens,
            cached_tokens,
            generated_tokens,
            vllm_finished_requests,
            sglang_finished_requests,
        } = self.totals;
        // vLLM has counted the prompts of running requests too.
        let requests = sglang_finished_requests.or(vllm_finished_requests.map(|finished| finished + running));
        let block = self.engines.values().find_map(|engine| engine.block_size);
        Some(EngineStats {
            running: running as u32,
            waiting: sum_of(|engine| engine.waiting).unwrap_or_default() as u32,
            kv_usage: usage.map(|usage| usage.min(1.0)),
            kv_capacity: capacity.map(to_tokens),
            block_tokens: block.map(to_tokens),
            prompt_tokens: prompt_tokens.map(to_tokens),
            cached_tokens: cached_tokens.map(to_tokens),
            generated_tokens: generated_tokens.map(to_tokens),
            prompt_requests: requests.map(|requests| requests as u64),
        })
    }

    fn append_to_line(&mut self, part: &[u8]) {
        self.is_overlong |= self.line.len() + part.len() > MAX_LINE_BYTES;
        if !self.is_overlong {
            self.line.extend_from_slice(part);
        }
    }

    fn end_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        if !std::mem::take(&mut self.is_overlong)
            && is_engine_metric(&line)
            && let Some(sample) = std::str::from_utf8(&line).ok().and_then(MetricSample::parse)
        {
            self.record_sample(&sample);
        }
        // The allocation is kept for the next line.
        self.line = line;
        self.line.clear();
    }

    fn record_sample(&mut self, sample: &MetricSample<'_>) {
        // SGLang reports some gauges by priority too, in addition to the total.
        if sample.label("priority").is_some_and(|priority| !priority.is_empty()) {
            return;
        }
        let value = sample.value;
        let totals = &mut self.totals;
        match sample.name {
            "vllm:prompt_tokens_total" | "sglang:prompt_tokens_total" => {
                return add_value(&mut totals.prompt_tokens, value);
            }
            "vllm:generation_tokens_total" | "sglang:generation_tokens_total" => {
                return add_value(&mut totals.generated_tokens, value);
            }
            "vllm:prefix_cache_hits_total" | "sglang:cached_tokens_total" => {
                return add_value(&mut totals.cached_tokens, value);
            }
            "vllm:request_success_total" => return add_value(&mut totals.vllm_finished_requests, value),
            "sglang:num_requests_total" => return add_value(&mut totals.sglang_finished_requests, value),
            _ => {}
        }
        let key = sample.label("engine").or(sample.label("dp_rank")).unwrap_or_default();
        let key = if self.engines.len() < MAX_ENGINES || self.engines.contains_key(key) { key } else { "" };
        let engine = self.engines.entry(key.to_owned()).or_default();
        match sample.name {
            "vllm:num_requests_running" | "sglang:num_running_reqs" => update_max(&mut engine.running, value),
            "vllm:num_requests_waiting" | "sglang:num_queue_reqs" => update_max(&mut engine.waiting, value),
            "vllm:kv_cache_usage_perc" | "vllm:gpu_cache_usage_perc" | "sglang:token_usage" => {
                update_max(&mut engine.kv_usage, value);
            }
            "sglang:max_total_num_tokens" => update_max(&mut engine.kv_capacity, value),
            "sglang:page_size" => update_max(&mut engine.block_size, value),
            "vllm:cache_config_info" => {
                let number = |name| sample.label(name).and_then(parse_amount);
                let (block, blocks) = (number("block_size"), number("num_gpu_blocks"));
                // Newer versions report tokens, which also holds for models with several kinds of blocks.
                let size = number("kv_cache_size_tokens").or(block.zip(blocks).map(|(block, blocks)| block * blocks));
                block.into_iter().for_each(|block| update_max(&mut engine.block_size, block));
                size.into_iter().for_each(|size| update_max(&mut engine.kv_capacity, size));
            }
            _ => {}
        }
    }
}

impl<'a> MetricSample<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let end = line.find(['{', ' ', '\t'])?;
        let (name, mut rest) = line.split_at(end);
        let mut labels = Vec::new();
        if let Some(inner) = rest.strip_prefix('{') {
            rest = inner;
            loop {
                rest = rest.trim_start_matches([',', ' ']);
                if let Some(after) = rest.strip_prefix('}') {
                    rest = after;
                    break;
                }
                let (key, after) = rest.split_once('=')?;
                let quoted = after.trim_start().strip_prefix('"')?;
                let end = find_closing_quote(quoted)?;
                labels.push((key.trim(), quoted.get(..end)?));
                rest = quoted.get(end + 1..)?;
            }
        }
        // A timestamp may follow the value.
        let value = parse_amount(rest.split_ascii_whitespace().next()?)?;
        Some(Self { name, labels, value })
    }

    fn label(&self, name: &str) -> Option<&'a str> {
        self.labels.iter().find(|(key, _)| *key == name).map(|(_, value)| *value)
    }
}

/// Returns whether the line may be a sample of an engine; most lines are others.
fn is_engine_metric(line: &[u8]) -> bool {
    line.starts_with(b"vllm:") || line.starts_with(b"sglang:")
}

/// Returns the index of the closing quote.
fn find_closing_quote(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.bytes().position(|byte| {
        let ends = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    })
}

/// Parses a number of requests or tokens, which is finite and not negative.
fn parse_amount(text: &str) -> Option<f64> {
    text.parse().ok().filter(|value: &f64| value.is_finite() && *value >= 0.0)
}

fn to_tokens(amount: f64) -> Tokens {
    Tokens(amount as u64)
}

fn add_value(sum: &mut Option<f64>, value: f64) {
    *sum = Some(sum.unwrap_or_default() + value);
}

fn update_max(known: &mut Option<f64>, value: f64) {
    *known = Some(known.unwrap_or_default().max(value));
}

/// Returns the sum of the known values; `None` if there are none.
fn sum_known(values: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    values.flatten().fold(None, |sum, value| Some(sum.unwrap_or_default() + value))
}

#[cfg(test)]
mod tests {
    use super::*;

    const VLLM_METRICS: &[u8] = include_bytes!("../../tests/data/captures/vllm-0.32.0/metrics.cut.http");

    fn parse_in_chunks(text: &[u8], size: usize) -> Option<EngineStats> {
        let mut parser = MetricsParser::default();
        text.chunks(size).for_each(|chunk| parser.push(chunk));
        parser.finish()
    }

    #[test]
    fn captured_vllm_metrics_are_parsed_at_any_cut() {
        let wanted = EngineStats {
            running: 3,
            waiting: 0,
            kv_usage: Some(0.0016480498077274808),
            kv_capacity: Some(Tokens(2_097_152)),
            block_tokens: Some(Tokens(128)),
            prompt_tokens: Some(Tokens(1_254)),
            cached_tokens: Some(Tokens(0)),
            generated_tokens: Some(Tokens(2_134)),
            prompt_requests: Some(4),
        };
        for size in [1, 2, 3, 7, 100, 4096, VLLM_METRICS.len()] {
            assert_eq!(parse_in_chunks(VLLM_METRICS, size), Some(wanted), "{size}");
        }
        // One prompt of 51 tokens and three of 401 had been prefilled when it was captured.
        assert_eq!(wanted.mean_prompt(), Tokens(313));
    }

    #[test]
    fn several_engines_are_summed_and_usage_is_weighted() {
        let text = "\
vllm:num_requests_running{engine=\"0\",model_name=\"m\"} 3.0
vllm:num_requests_running{engine=\"1\",model_name=\"m\"} 4.0
vllm:num_requests_waiting{engine=\"1\",model_name=\"m\"} 2.0
vllm:gpu_cache_usage_perc{engine=\"0\"} 0.5
vllm:gpu_cache_usage_perc{engine=\"1\"} 0.25
vllm:cache_config_info{block_size=\"16\",engine=\"0\",num_gpu_blocks=\"100\"} 1.0
vllm:cache_config_info{block_size=\"16\",engine=\"1\",num_gpu_blocks=\"300\"} 1.0
vllm:prompt_tokens_total{engine=\"0\"} 1e3
vllm:prompt_tokens_total{engine=\"1\"} 500 1700000000000
vllm:request_success_total{engine=\"0\",finished_reason=\"stop\"} 5
vllm:request_success_total{engine=\"1\",finished_reason=\"abort\"} 2";
        let stats = parse_in_chunks(text.as_bytes(), 9).unwrap();
        assert_eq!((stats.running, stats.waiting, stats.kv_capacity), (7, 2, Some(Tokens(6_400))));
        assert_eq!((stats.kv_usage, stats.kv_tokens_used()), (Some(0.3125), Some(Tokens(2_000))));
        assert_eq!((stats.prompt_tokens, stats.prompt_requests), (Some(Tokens(1_500)), Some(14)));
    }

    #[test]
    fn sglang_ranks_and_priorities_are_not_counted_twice() {
        let text = "\
# TYPE sglang:num_running_reqs gauge
sglang:num_running_reqs{dp_rank=\"0\",model_name=\"m\",tp_rank=\"0\"} 5.0
sglang:num_running_reqs{dp_rank=\"0\",model_name=\"m\",tp_rank=\"1\"} 5.0
sglang:num_running_reqs{dp_rank=\"1\",model_name=\"m\",tp_rank=\"0\"} 1.0
sglang:num_queue_reqs{dp_rank=\"0\",priority=\"\"} 3
sglang:num_queue_reqs{dp_rank=\"0\",priority=\"7\"} 30
sglang:token_usage{dp_rank=\"0\"} 0.28
sglang:token_usage{dp_rank=\"1\"} 0.28
sglang:max_total_num_tokens{dp_rank=\"0\"} 1000
sglang:max_total_num_tokens{dp_rank=\"1\"} 1000
sglang:page_size{dp_rank=\"0\"} 1
sglang:prompt_tokens_total{model_name=\"m\"} 8.128902e+06
sglang:generation_tokens_total{model_name=\"m\"} 7.557572e+06
sglang:num_requests_total{model_name=\"m\"} 1000
";
        let stats = parse_in_chunks(text.as_bytes(), 11).unwrap();
        assert_eq!((stats.running, stats.waiting, stats.block_tokens), (6, 3, Some(Tokens(1))));
        assert_eq!(
            (stats.kv_usage.map(|usage| (usage * 100.0).round()), stats.kv_tokens_used()),
            (Some(28.0), Some(Tokens(560)))
        );
        assert_eq!((stats.generated_tokens, stats.mean_prompt()), (Some(Tokens(7_557_572)), Tokens(8_128)));
    }

    #[test]
    fn metrics_not_reported_are_unknown() {
        let stats =
            parse_in_chunks(b"vllm:num_requests_running 2\nvllm:cache_config_info{num_gpu_blocks=\"None\"} 1\n", 5)
                .unwrap();
        assert_eq!(stats, EngineStats { running: 2, ..EngineStats::default() });
    }

    #[test]
    fn text_of_no_engine_is_none_without_panic() {
        let long = [b"vllm:num_requests_running".as_slice(), &vec![b' '; MAX_LINE_BYTES], b"5"].concat();
        for text in [
            b"".as_slice(),
            b"<html>\n</html>",
            b"process_cpu_seconds_total 5\n",
            b"vllm:num_requests_running",
            b"vllm:num_requests_running{",
            b"vllm:num_requests_running{engine=\"0} 5",
            b"vllm:num_requests_running{engine=\"\\\"} 5",
            b"vllm:num_requests_running{=} 5",
            b"vllm:num_requests_running{a=\"\xff\"} 5",
            b"vllm:num_requests_running NaN\nvllm:num_requests_running -1\nvllm:num_requests_running +Inf",
            b"vllm:num_requests_running_more 5",
            &long,
        ] {
            assert_eq!(parse_in_chunks(text, 3), None, "{}", String::from_utf8_lossy(text));
        }
        let odd = b"vllm:num_requests_running{ a = \"}\\\"{,\" , b=\"\" } 1e300 1";
        assert_eq!(parse_in_chunks(odd, 64).unwrap().running, u32::MAX);
    }
}
