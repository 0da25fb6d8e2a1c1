//! Measures how fast each format is read and written on one core, in MiB a second, over made-up web
//! logs: `cargo run --release -p tidemill-operators --example format_rate`.
#![allow(clippy::print_stdout, reason = "a program that reports")]

use std::time::Instant;

use arrow_buffer::Buffer;
use tidemill_operators::Type;
use tidemill_operators::format::{
    CsvOptions, Encoder, Field, Format, Header, OutputFormat, Parser, ReadPlan, raw_runs,
};

const CHUNK_BYTES: usize = 512 * 1024;
/// So many different chunks that a processor cannot learn them by heart.
const CHUNKS: u64 = 64;
const ROUNDS: usize = 12;

fn main() {
    let fields = [
        ("host", Type::String),
        ("status", Type::Int),
        ("bytes", Type::Int),
        ("latency_ms", Type::Float),
    ];
    let plan = |format, fields: &[(&str, Type)], raw| ReadPlan {
        format,
        fields: fields
            .iter()
            .map(|&(name, kind)| Field { name: name.into(), kind, path: vec![name.into()] })
            .collect(),
        names: Vec::new(),
        raw,
        positions: raw,
        record_bytes_max: 1 << 20,
    };
    let json = chunks(json_line);
    let spaced = chunks(|at| json_line(at).replace("\":", "\": ").replace(",\"", ", \""));
    let mixed = chunks(|at| if at % 2 == 0 { json_line(at) } else { swapped_line(at) });
    let unicode = chunks(|at| json_line(at).replace("Mozilla", "Mözillä"));
    let csv = chunks(csv_line);
    let csv_format = Format::Csv(CsvOptions::default());
    let names = b"ts,host,path,method,status,bytes,latency_ms,user,ua\n";
    let nine = [
        ("ts", Type::Timestamp),
        ("host", Type::String),
        ("path", Type::String),
        ("method", Type::String),
        ("status", Type::Int),
        ("bytes", Type::Int),
        ("latency_ms", Type::Float),
        ("user", Type::String),
        ("ua", Type::String),
    ];
    let jobs = [
        ("text, line", &json, plan(Format::Text, &[("line", Type::String)], true)),
        ("text, raw only", &json, plan(Format::Text, &[], true)),
        ("jsonl, 4 of 9, raw", &json, plan(Format::Jsonl, &fields, true)),
        ("jsonl, 4 of 9", &json, plan(Format::Jsonl, &fields, false)),
        ("jsonl, 9 of 9, raw", &json, plan(Format::Jsonl, &nine, true)),
        ("jsonl, spaces", &spaced, plan(Format::Jsonl, &fields, true)),
        ("jsonl, unicode", &unicode, plan(Format::Jsonl, &fields, true)),
        ("jsonl, two shapes", &mixed, plan(Format::Jsonl, &fields, true)),
        ("csv, 4 of 9, raw", &csv, plan(csv_format.clone(), &fields, true)),
        ("csv, 9 of 9, raw", &csv, plan(csv_format, &nine, true)),
    ];
    for (name, bytes, plan) in jobs {
        let schema = plan.schema();
        let header = Header::parse(&plan, names).ok();
        let mut parser = Parser::new(plan);
        // The best time of each chunk: other programs disturb some rounds, not all.
        let mut times = vec![f64::MAX; bytes.len()];
        let (mut records, mut rejects, size) = (0, 0, bytes.iter().map(Buffer::len).sum::<usize>());
        for _ in 0..ROUNDS {
            (records, rejects) = (0, 0);
            for (chunk, time) in bytes.iter().zip(&mut times) {
                let start = Instant::now();
                let parsed = parser.parse(chunk, 0..chunk.len(), header.as_ref());
                records += parsed.records;
                rejects += parsed.rejects.len();
                *time = time.min(start.elapsed().as_secs_f64());
            }
        }
        let best: f64 = times.iter().sum();
        let rate = size as f64 / best / 1_048_576.0;
        let nanos = best * 1e9 / f64::from(records);
        println!(
            "{name:22} {rate:7.0} MiB/s {nanos:6.1} ns a record, {records} records, {rejects} rejected"
        );
        let parsed = parser.parse(&bytes[0], 0..bytes[0].len(), header.as_ref());
        let Some(batch) = parsed.batch else { continue };
        if let Some(raw) = &batch.raw
            && raw_runs(raw).count() != 1
        {
            println!("{name}: raw records are not one run");
        }
        for format in [OutputFormat::Jsonl, OutputFormat::Csv { delimiter: b',', header: true }] {
            let mut encoder = Encoder::new(format.clone(), &schema);
            let mut out = Vec::new();
            let mut best = f64::MAX;
            for _ in 0..20 {
                out.clear();
                let start = Instant::now();
                encoder.encode(&batch, &mut out);
                best = best.min(start.elapsed().as_secs_f64());
            }
            let rate = out.len() as f64 / best / 1_048_576.0;
            println!("    written as {format:?}: {rate:.0} MiB/s");
        }
    }
}

fn chunks(line: impl Fn(u64) -> String) -> Vec<Buffer> {
    let chunk = |number: u64| {
        let mut bytes = Vec::new();
        for at in number * 1_000_000.. {
            if bytes.len() > CHUNK_BYTES {
                break;
            }
            bytes.extend_from_slice(line(at).as_bytes());
            bytes.push(b'\n');
        }
        Buffer::from_vec(bytes)
    };
    (0..CHUNKS).map(chunk).collect()
}

fn values(at: u64) -> [String; 9] {
    let mut seed = at.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut next = |below: u64| {
        seed ^= seed >> 29;
        seed = seed.wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (seed >> 33) % below
    };
    let methods = ["GET", "GET", "GET", "POST", "PUT", "DELETE"];
    let status = [200, 200, 200, 200, 200, 200, 301, 304, 404, 500][next(10) as usize];
    [
        format!("2026-11-22T01:{:02}:{:02}.{:03}Z", at / 1000 % 60, at / 17 % 60, next(1000)),
        format!("web-{:03}.example.net", next(200)),
        format!("/shop/{}/item/{}", ["books", "music", "garden"][next(3) as usize], next(5000)),
        methods[next(6) as usize].to_owned(),
        status.to_string(),
        next(100_000).to_string(),
        format!("{}.{:03}", next(900), next(1000)),
        format!("user{:05}", next(100_000)),
        format!("Mozilla/5.0 (X11; Linux x86_64) Gecko/2010 Firefox/{}.0", next(130)),
    ]
}

fn json_line(at: u64) -> String {
    let [ts, host, path, method, status, bytes, latency, user, ua] = values(at);
    format!(
        r#"{{"ts":"{ts}","host":"{host}","path":"{path}","method":"{method}","status":{status},"bytes":{bytes},"latency_ms":{latency},"user":"{user}","ua":"{ua}"}}"#
    )
}

fn swapped_line(at: u64) -> String {
    let [ts, host, path, method, status, bytes, latency, user, ua] = values(at);
    format!(
        r#"{{"host":"{host}","ts":"{ts}","path":"{path}","method":"{method}","bytes":{bytes},"status":{status},"latency_ms":{latency},"user":"{user}","ua":"{ua}"}}"#
    )
}

fn csv_line(at: u64) -> String {
    values(at).join(",")
}
