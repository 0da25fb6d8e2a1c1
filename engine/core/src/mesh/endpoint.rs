//! Endpoint: where a process of the mesh listens, and the host file that lists them. Plain values;
//! nothing in here touches the network.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;

/// The most processes a host file may list.
pub const PROCESSES_MAX: usize = 1024;

/// Where one process listens for the others.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// `host:port`; an IPv6 address stands in brackets.
    Tcp(String),
    /// The path of a Unix socket, in a folder that only its owner can enter.
    Unix(PathBuf),
}

impl fmt::Display for Endpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Tcp(address) => formatter.write_str(address),
            Endpoint::Unix(path) => write!(formatter, "{}", path.display()),
        }
    }
}

/// What is wrong with a host file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostfileError {
    /// A line is not `host:port`.
    #[error("line {line}: {text:?} is not host:port: {reason}")]
    Line {
        /// The line, counted from 1.
        line: usize,
        /// What stands there, shortened.
        text: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Two processes cannot listen at one place.
    #[error("line {line}: {address} stands already on line {first}: each process needs its own")]
    Repeated {
        /// The second line, counted from 1.
        line: usize,
        /// The first line.
        first: usize,
        /// What stands on both.
        address: String,
    },
    /// There are more lines than a mesh may have processes.
    #[error("line {line}: more than {PROCESSES_MAX} processes")]
    TooMany {
        /// The first line that is too many.
        line: usize,
    },
    /// There is no address in it.
    #[error("no line says host:port")]
    Empty,
}

/// Reads a host file: one `host:port` per line, process 0 first. What follows `#` is a comment; blank
/// lines are skipped.
pub fn parse_hostfile(text: &str) -> Result<Vec<Endpoint>, HostfileError> {
    let mut endpoints = Vec::new();
    let mut lines: HashMap<&str, usize> = HashMap::new();
    for (number, line) in text.strip_prefix('\u{feff}').unwrap_or(text).lines().enumerate() {
        let line_number = number + 1;
        let address = line.split('#').next().unwrap_or_default().trim();
        if address.is_empty() {
            continue;
        }
        if endpoints.len() == PROCESSES_MAX {
            return Err(HostfileError::TooMany { line: line_number });
        }
        check_address(address).map_err(|reason| HostfileError::Line {
            line: line_number,
            text: address.chars().take(80).collect(),
            reason,
        })?;
        if let Some(first) = lines.insert(address, line_number) {
            let address = address.to_string();
            return Err(HostfileError::Repeated { line: line_number, first, address });
        }
        endpoints.push(Endpoint::Tcp(address.to_string()));
    }
    if endpoints.is_empty() {
        return Err(HostfileError::Empty);
    }
    Ok(endpoints)
}

/// Says what keeps a text from being `host:port`.
pub(super) fn check_address(address: &str) -> Result<(), &'static str> {
    let Some((host, port)) = address.rsplit_once(':') else {
        return Err("the port is missing");
    };
    let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    match port.parse::<u16>() {
        Ok(0) => return Err("port 0 would be a different one at each start"),
        Ok(_) if digits => {}
        _ => return Err("the port is a number up to 65535"),
    }
    let bracketed = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    match bracketed {
        Some(inside) if inside.parse::<std::net::Ipv6Addr>().is_err() => {
            Err("what is in brackets is not an IPv6 address")
        }
        Some(_) => Ok(()),
        None if host.is_empty() => Err("the host is missing"),
        None if host.contains(':') => Err("an IPv6 address stands in brackets: [::1]:2101"),
        None if host.chars().any(|c| c.is_whitespace() || c.is_control() || c == '/') => {
            Err("a host name has no blanks, slashes or control characters")
        }
        None => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Result<&[&str], &str>) {
        match (parse_hostfile(text), expected) {
            (Ok(given), Ok(expected)) => {
                let given: Vec<String> = given.iter().map(Endpoint::to_string).collect();
                assert_eq!(given, expected);
            }
            (Err(error), Err(expected)) => assert_eq!(error.to_string(), expected),
            (given, expected) => panic!("given {given:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn a_host_file_lists_one_process_per_line() {
        check("a:1\nb:2\n", Ok(&["a:1", "b:2"]));
        check("# ours\n\n  a:1  # the first\r\n\t\nb:2", Ok(&["a:1", "b:2"]));
        check("\u{feff}10.0.0.1:2101\n[::1]:2101\n", Ok(&["10.0.0.1:2101", "[::1]:2101"]));
    }

    #[test]
    fn a_mistake_names_its_line() {
        check("", Err("no line says host:port"));
        check("# nothing\n", Err("no line says host:port"));
        check("a:1\nb\n", Err("line 2: \"b\" is not host:port: the port is missing"));
        check("\n:1", Err("line 2: \":1\" is not host:port: the host is missing"));
        check("a:+1", Err("line 1: \"a:+1\" is not host:port: the port is a number up to 65535"));
        check(
            "a:65536",
            Err("line 1: \"a:65536\" is not host:port: the port is a number up to 65535"),
        );
        check(
            "a:0",
            Err("line 1: \"a:0\" is not host:port: port 0 would be a different one at each start"),
        );
        check(
            "::1:2101",
            Err(
                "line 1: \"::1:2101\" is not host:port: an IPv6 address stands in brackets: [::1]:2101",
            ),
        );
        check(
            "[zz]:1",
            Err("line 1: \"[zz]:1\" is not host:port: what is in brackets is not an IPv6 address"),
        );
        check(
            "a b:1",
            Err(
                "line 1: \"a b:1\" is not host:port: a host name has no blanks, slashes or control characters",
            ),
        );
        check(
            "a:1\n\na:1",
            Err("line 3: a:1 stands already on line 1: each process needs its own"),
        );
        let many: String = (0..1025).map(|n| format!("h{n}:1\n")).collect();
        check(&many, Err("line 1025: more than 1024 processes"));
    }
}
