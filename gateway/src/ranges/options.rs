//! The numeric options of the command lines.

use super::{Range, real, whole};
use crate::durations::Seconds;
use crate::output;
use clap::builder::{StyledStr, TypedValueParser, ValueParser};
use clap::error::ErrorKind;
use clap::{Arg, Command, Parser};
use std::any::TypeId;
use std::ffi::OsStr;
use std::fmt::Display;
use std::marker::PhantomData;
use std::str::FromStr;
use stoq::limits::{
    CONNECTIONS_LEN_MAX, LEASE_S_MAX, MESSAGE_BYTES_MAX, PAYLOAD_BYTES_MAX, QUEUE_MAX, RATE_BITS_PER_S_MAX,
    RATE_BITS_PER_S_MIN, REQUESTS_LEN_MAX, SPAN_S_MAX, STORE_ENTRIES_LEN_MAX, TRIPS_LEN_MAX,
};

const DAY_S: f64 = SPAN_S_MAX as f64;
const NOTHING: &str = "nothing would be done";
const A_DAY: &str = "no command waits for more than a day";
const QUEUE: &str = "a queue number has 62 bits (protocol §2)";
const TRIPS: &str = "the time of each is kept in memory";
const EMPTY: &str = "only empty payloads would be left";
const LEASE: &str = "a lease has at most a hundred years";
const PAYLOAD: &str = "a payload has at most 2^50 bytes (protocol §8)";
const ENTRIES: &str = "no store has more entries";
const ENTRIES_MAX: u64 = STORE_ENTRIES_LEN_MAX;
const COUNTERS: &str = "the counters hold no more";

const fn lease(name: &'static str) -> Range {
    whole(name, (1, LEASE_S_MAX), "seconds", "a payload would not be kept", LEASE)
        .or_zero_for("the gateway's default")
}

const fn ends_within(name: &'static str) -> Range {
    whole(name, (1, LEASE_S_MAX), "seconds", "no lease has ended yet", LEASE)
}

/// The range of each numeric option. The row of a command also applies to its subcommands.
pub const OPTIONS: &[Range] = &[
    whole(
        "stoq --rate",
        (RATE_BITS_PER_S_MIN, RATE_BITS_PER_S_MAX),
        "bits a second",
        "acknowledgments alone need more",
        "no port is faster",
    )
    .or_zero_for("no bound"),
    real("stoq --timeout", (0.01, DAY_S), "seconds", "no handshake ends in less", A_DAY),
    lease("stoq put --lease"),
    lease("stoq mirror --lease"),
    lease("stoq renew --lease"),
    ends_within("stoq list --ends-within"),
    whole("stoq list --min-size", (0, PAYLOAD_BYTES_MAX), "bytes", "", PAYLOAD),
    whole("stoq list --max-size", (1, PAYLOAD_BYTES_MAX), "bytes", EMPTY, PAYLOAD),
    whole("stoq list --limit", (1, ENTRIES_MAX), "entries", NOTHING, ENTRIES),
    ends_within("stoq-gateway store list --ends-within"),
    whole("stoq-gateway store list --min-size", (0, PAYLOAD_BYTES_MAX), "bytes", "", PAYLOAD),
    whole("stoq-gateway store list --max-size", (1, PAYLOAD_BYTES_MAX), "bytes", EMPTY, PAYLOAD),
    whole("stoq-gateway store list --limit", (1, ENTRIES_MAX), "entries", NOTHING, ENTRIES),
    ends_within("stoq-gateway store export --ends-within"),
    whole("stoq-gateway store export --min-size", (0, PAYLOAD_BYTES_MAX), "bytes", "", PAYLOAD),
    whole("stoq-gateway store export --max-size", (1, PAYLOAD_BYTES_MAX), "bytes", EMPTY, PAYLOAD),
    whole("stoq-gateway store export --limit", (1, ENTRIES_MAX), "entries", NOTHING, ENTRIES),
    whole("stoq put --queue", (0, QUEUE_MAX), "", "", QUEUE),
    whole("stoq ping --count", (1, TRIPS_LEN_MAX), "", NOTHING, TRIPS),
    real("stoq ping --interval", (0.0, DAY_S), "seconds", "a time is not negative", A_DAY),
    whole(
        "stoq ping --size",
        (0, MESSAGE_BYTES_MAX),
        "bytes",
        "",
        "a message has at most 64 KiB (protocol §8)",
    ),
    whole("stoq ping --queue", (0, QUEUE_MAX), "", "", QUEUE),
    whole("stoq ping --load", (0, QUEUE_MAX), "", "", QUEUE),
    whole(
        "stoq bench --bytes",
        (1, PAYLOAD_BYTES_MAX),
        "bytes",
        NOTHING,
        "a payload has at most 2^50 bytes (protocol §8)",
    ),
    whole(
        "stoq bench --size",
        (1, MESSAGE_BYTES_MAX),
        "bytes",
        "an empty message asks for the count",
        "a message has at most 64 KiB (protocol §8)",
    ),
    whole("stoq bench --queue", (0, QUEUE_MAX), "", "", QUEUE),
    whole("stoq bench --payload", (1, PAYLOAD_BYTES_MAX), "bytes", NOTHING, PAYLOAD),
    whole("stoq bench --keep", (1, LEASE_S_MAX), "seconds", "a payload would not be kept", LEASE),
    whole("stoq bench --round-trips", (1, TRIPS_LEN_MAX), "", NOTHING, TRIPS),
    whole(
        "stoq bench --connections",
        (1, CONNECTIONS_LEN_MAX as u64),
        "",
        NOTHING,
        "a worker of the gateway has no more",
    )
    .or_zero_for("one a worker"),
    whole(
        "stoq bench --streams",
        (1, REQUESTS_LEN_MAX),
        "",
        NOTHING,
        "a connection has no more requests at once (protocol §8)",
    ),
    whole("stoq bench --time-limit", (1, SPAN_S_MAX), "seconds", "no measurement ends in less", A_DAY),
    whole("stoq path --echo", (0, QUEUE_MAX), "", "", QUEUE),
    whole("stoq path --discard", (0, QUEUE_MAX), "", "", QUEUE),
    whole("stoq path --bytes", (1, PAYLOAD_BYTES_MAX), "bytes", NOTHING, COUNTERS),
    whole("stoq path --time-limit", (5, SPAN_S_MAX), "seconds", "the two ways have no time to fill", A_DAY),
    whole(
        "stoq identity new --days",
        (1, 36_500),
        "days",
        "the certificate would expire at once",
        "a certificate has at most a hundred years",
    ),
    whole(
        "stoq identity renew --days",
        (1, 36_500),
        "days",
        "the certificate would expire at once",
        "a certificate has at most a hundred years",
    ),
    whole(
        "stoq-gateway capture --sample",
        (1, u32::MAX as u64),
        "",
        "no frame would be taken",
        "the gateway counts frames in 32 bits",
    ),
    whole("stoq-gateway capture --count", (1, u64::MAX), "frames", NOTHING, ""),
    whole(
        "stoq-gateway capture --seconds",
        (1, 365 * SPAN_S_MAX),
        "seconds",
        NOTHING,
        "a capture ends after a year",
    ),
    real(
        "stoq-gateway top --interval",
        (0.1, 3600.0),
        "seconds",
        "a gateway is sampled at most ten times a second",
        "rates over more than an hour hide changes",
    ),
    real(
        "stoq-pktgen --rate",
        (1e-3, 1e9),
        "a second",
        "the first would be due after more than 1000 seconds",
        "no generator makes more",
    )
    .or_zero_for("as many as possible"),
    real("stoq-pktgen --seconds", (1e-3, DAY_S), "seconds", NOTHING, A_DAY),
    whole("stoq-pktgen garbage --count", (1, u64::MAX >> 1), "datagrams", NOTHING, COUNTERS),
    whole("stoq-pktgen initials --count", (1, u64::MAX >> 1), "datagrams", NOTHING, COUNTERS),
    whole("stoq-pktgen halves --count", (1, u64::MAX >> 1), "datagrams", NOTHING, COUNTERS),
    whole("stoq-pktgen gaps --count", (1, u64::MAX >> 1), "datagrams", NOTHING, COUNTERS),
    whole("stoq-pktgen replay --count", (1, u64::MAX >> 1), "datagrams", NOTHING, COUNTERS),
    whole("stoq-pktgen handshakes --count", (1, TRIPS_LEN_MAX), "handshakes", NOTHING, TRIPS),
    whole(
        "stoq-pktgen handshakes --concurrency",
        (1, CONNECTIONS_LEN_MAX as u64),
        "",
        NOTHING,
        "a worker has no more connections",
    ),
    real("stoq-pktgen handshakes --patience", (0.0, DAY_S), "seconds", "a time is not negative", A_DAY),
    whole("stoq-pktgen handshakes --queue", (0, QUEUE_MAX), "", "", QUEUE),
    whole("stoq-pktgen goodput --count", (1, u64::MAX >> 1), "messages", NOTHING, COUNTERS),
    whole(
        "stoq-pktgen goodput --connections",
        (1, CONNECTIONS_LEN_MAX as u64),
        "",
        NOTHING,
        "a worker has no more connections",
    ),
    whole(
        "stoq-pktgen goodput --size",
        (1, MESSAGE_BYTES_MAX),
        "bytes",
        "an empty message asks for the count",
        "a message has at most 64 KiB (protocol §8)",
    ),
    real("stoq-pktgen goodput --patience", (0.0, DAY_S), "seconds", "a time is not negative", A_DAY),
    whole("stoq-pktgen goodput --queue", (0, QUEUE_MAX), "", "", QUEUE),
];

/// Parses this process's arguments; a number out of its range ends the process with the right values.
pub fn parse<C: Parser>() -> C {
    let mut command = bounded(C::command());
    let parsed = match command.try_get_matches_from_mut(std::env::args_os()) {
        Ok(mut matches) => C::from_arg_matches_mut(&mut matches).map_err(|error| error.format(&mut command)),
        Err(refused) => Err(refused),
    };
    parsed.unwrap_or_else(|refused| output::refuse(&refused, command.get_name()))
}

/// The command line, each numeric option with the parser and the help of its row in [`OPTIONS`].
pub fn bounded(command: Command) -> Command {
    let path = command.get_name().to_owned();
    below(command, &path)
}

/// The numeric options without a row in [`OPTIONS`]: there must be none.
pub fn unbounded(command: &Command) -> Vec<String> {
    fn walk(command: &Command, path: &str, found: &mut Vec<String>) {
        for arg in command.get_arguments() {
            if Number::of(arg).is_some() && range(path, arg).is_none() {
                found.push(format!("{path} --{}", arg.get_long().unwrap_or_else(|| arg.get_id().as_str())));
            }
        }
        for command in command.get_subcommands() {
            walk(command, &format!("{path} {}", command.get_name()), found);
        }
    }
    let mut found = Vec::new();
    walk(command, command.get_name(), &mut found);
    found
}

fn below(command: Command, path: &str) -> Command {
    let command = command.mut_args(|arg| match (Number::of(&arg), range(path, &arg)) {
        (Some(number), Some(range)) => number.within(arg, range),
        _ => arg,
    });
    command.mut_subcommands(|command| {
        let path = format!("{path} {}", command.get_name());
        below(command, &path)
    })
}

/// The row of an option: that of its command, or that of a command above.
fn range(path: &str, arg: &Arg) -> Option<&'static Range> {
    let long = arg.get_long()?;
    let mut path = path;
    loop {
        let name = format!("{path} --{long}");
        if let Some(range) = OPTIONS.iter().find(|range| range.name == name) {
            return Some(range);
        }
        path = path.rsplit_once(' ')?.0;
    }
}

/// The types of numeric options.
#[derive(Clone, Copy)]
enum Number {
    U32,
    U64,
    Usize,
    F64,
    Span,
}

impl Number {
    /// The type of an option; none if it is not numeric.
    fn of(arg: &Arg) -> Option<Self> {
        let found = arg.get_value_parser().type_id();
        let types = [
            (TypeId::of::<u32>(), Self::U32),
            (TypeId::of::<u64>(), Self::U64),
            (TypeId::of::<usize>(), Self::Usize),
            (TypeId::of::<f64>(), Self::F64),
            (TypeId::of::<Seconds>(), Self::Span),
        ];
        types.into_iter().find(|(id, _)| found == *id).map(|(_, number)| number)
    }

    fn within(self, arg: Arg, range: &'static Range) -> Arg {
        let parser = match self {
            Self::U32 => ValueParser::new(Within::<u32>(range, PhantomData)),
            Self::U64 => ValueParser::new(Within::<u64>(range, PhantomData)),
            Self::Usize => ValueParser::new(Within::<usize>(range, PhantomData)),
            Self::F64 => ValueParser::new(Within::<f64>(range, PhantomData)),
            Self::Span => ValueParser::new(Within::<Seconds>(range, PhantomData)),
        };
        let with_range = |help: Option<&StyledStr>| help.map(|help| format!("{help} [{range}]"));
        let (help, long_help) = (with_range(arg.get_help()), with_range(arg.get_long_help()));
        let arg = arg.value_parser(parser).allow_negative_numbers(true);
        let arg = if let Some(help) = help { arg.help(help) } else { arg };
        if let Some(help) = long_help { arg.long_help(help) } else { arg }
    }
}

/// A parser of numbers in a range.
struct Within<T>(&'static Range, PhantomData<fn() -> T>);

impl<T> Clone for Within<T> {
    fn clone(&self) -> Self {
        Self(self.0, PhantomData)
    }
}

impl<T: FromStr<Err: Display> + Clone + Send + Sync + 'static> TypedValueParser for Within<T> {
    type Value = T;

    fn parse_ref(&self, command: &Command, arg: Option<&Arg>, value: &OsStr) -> Result<T, clap::Error> {
        let text = value.to_string_lossy();
        // A span of time such as 30d is checked as the seconds that it has.
        let seconds = text.parse().map(|Seconds(seconds)| self.0.check_whole(seconds.into()));
        let checked = match seconds {
            Ok(checked) if TypeId::of::<T>() == TypeId::of::<Seconds>() => checked,
            _ if TypeId::of::<T>() == TypeId::of::<Seconds>() => Ok(()),
            _ => self.0.check_text(&text),
        };
        let parsed = checked.and_then(|()| text.parse().map_err(|error| format!("{error}; give {}", self.0)));
        parsed.map_err(|why| {
            let option = arg.map_or_else(|| self.0.name.to_owned(), ToString::to_string);
            let text = format!("invalid value '{text}' for '{option}': {why}\n");
            clap::Error::raw(ErrorKind::ValueValidation, text).with_cmd(command)
        })
    }
}
