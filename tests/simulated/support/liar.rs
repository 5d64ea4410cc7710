//! A store that lies: the application of a gateway that answers FETCH falsely.

use super::encoding;
use bytes::Bytes;
use std::collections::{HashMap, VecDeque};
use std::time::Instant;
use stoq::application::Application;
use stoq::queue::{Answer, AppPort, Command, ConnectionEvent, Credit, Delivery, End, Ending, RequestId};
use stoq::record::{ErrorCode, ErrorRecord, OkRecord, Request};
use stoq::shard::Descriptor;
use stoq::token::Ranges;

/// The fault of its answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lie {
    /// One bit of every encoding is inverted.
    FlippedBit,
    /// The groups after those asked for.
    WrongRange,
    /// OK claims a longer payload than there is, or a shorter one.
    Longer,
    Shorter,
    /// OK claims a payload of no bytes.
    Empty,
    /// A descriptor of another payload.
    WrongDescriptor,
    /// Other bytes follow the right ones, without end.
    Endless,
    /// No answer, except to a request for a description.
    Silent,
    /// Half of the bytes, then nothing.
    Half,
    /// Half of the bytes, then the end of the stream.
    CutShort,
}

/// The application. It has the payload about which it lies.
pub(crate) struct Liar {
    lie: Lie,
    payload: Bytes,
    answers: HashMap<RequestId, (Credit, VecDeque<Bytes>)>,
    commands: VecDeque<Command>,
}

impl Liar {
    pub(crate) fn new(lie: Lie, payload: Bytes) -> Self {
        Self { lie, payload, answers: HashMap::new(), commands: VecDeque::new() }
    }

    fn fetch(&mut self, request: RequestId, ranges: Ranges, describe: bool, credit: Credit) {
        let real = self.payload.len() as u64;
        let length = match self.lie {
            Lie::Longer => real * 3 + 1_000_000,
            Lie::Shorter => real / 2 + 1,
            Lie::Empty => 0,
            _ => real,
        };
        if self.lie == Lie::Silent && !describe {
            return;
        }
        let other = Descriptor::plain(stoq::token::Token::of(b"something else"), real).unwrap();
        let descriptor = (self.lie == Lie::WrongDescriptor).then_some(other);
        let ok = OkRecord { length_bytes: length, descriptor };
        self.commands.push_back(Command::answer(request, Answer::Ok(ok)));
        if describe {
            return self.commands.push_back(Command::End(request, Ending::Finish));
        }
        let groups = real.div_ceil(16_384).max(1);
        let mut asked = Ranges::all();
        if let (Lie::WrongRange, Some(run)) = (self.lie, ranges.iter().next()) {
            let len = run.end - run.start;
            asked.push_run(if run.end + len <= groups { run.end } else { 0 }, len.min(groups)).unwrap();
        } else if ranges.selected_bytes(real).is_ok() {
            asked = ranges;
        }
        let mut encoded: VecDeque<Bytes> = encoding(&self.payload, &asked).into();
        match self.lie {
            Lie::FlippedBit => {
                let last = encoded.pop_back().unwrap_or_default();
                let mut bytes = last.to_vec();
                if let Some(byte) = bytes.last_mut() {
                    *byte ^= 1;
                }
                encoded.push_back(bytes.into());
            }
            Lie::Half | Lie::CutShort => encoded.truncate(encoded.len() / 2),
            _ => {}
        }
        self.answers.insert(request, (credit, encoded));
    }
}

impl Application for Liar {
    fn poll(&mut self, _: Instant, port: &mut AppPort) -> bool {
        let mut worked = false;
        while let Some(delivery) = port.receive() {
            worked = true;
            match delivery {
                Delivery::Asked(request, asked) => match asked.request {
                    Request::Fetch(fetch) => self.fetch(request, fetch.ranges, fetch.describe, asked.credit),
                    _ => {
                        let failure = ErrorRecord::new(ErrorCode::NotFound, 0, "not here");
                        self.commands.push_back(Command::refuse(request, failure));
                    }
                },
                Delivery::Ended(request, End::Failed(_)) => drop(self.answers.remove(&request)),
                Delivery::Connection(connection, ConnectionEvent::Closed { .. }) => {
                    self.answers.retain(|request, _| request.connection != connection);
                }
                _ => {}
            }
        }
        while let Some(command) = self.commands.pop_front() {
            if let Err(command) = port.send(command) {
                self.commands.push_front(command);
                return worked;
            }
            worked = true;
        }
        let (lie, commands) = (self.lie, &mut self.commands);
        self.answers.retain(|&request, (credit, encoded)| {
            loop {
                let Some(bytes) = encoded.pop_front() else {
                    match lie {
                        Lie::Endless => encoded.push_back(Bytes::from_static(&[0; 16_384])),
                        Lie::Half => return true,
                        _ => {
                            commands.push_back(Command::End(request, Ending::Finish));
                            return false;
                        }
                    }
                    continue;
                };
                if let Err(bytes) = port.send_data(request, credit, bytes) {
                    encoded.push_front(bytes);
                    return true;
                }
                worked = true;
            }
        });
        worked
    }
}
