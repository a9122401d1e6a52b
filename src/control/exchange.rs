//! What is sent and expected in a check, step by step: a function of the bytes received. Pure.

use crate::config::plan::Step;

/// Most bytes of an answer that are looked at: an answer that is still not as expected is another.
const LONGEST_ANSWER: usize = 64 << 10;

/// Most characters of an answer that are shown when it is not as expected.
const SHOWN: usize = 64;

/// An exchange under way.
///
/// Steps that expect something and follow one another look at the same answer, as HAProxy's
/// `tcp-check expect` does; what is sent next begins a new one.
#[derive(Debug)]
pub(super) struct Exchange<'a> {
    steps: &'a [Step],
    answer: Vec<u8>,
}

/// What comes next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next<'a> {
    /// These bytes are to be sent.
    Send(&'a [u8]),
    /// More of the answer has to come.
    Receive,
    /// All steps have been passed.
    Passed,
    /// The answer is not the expected one: why, for people.
    Failed(String),
}

impl<'a> Exchange<'a> {
    /// An exchange at its beginning.
    pub(super) fn new(steps: &'a [Step]) -> Self {
        Self { steps, answer: Vec::new() }
    }

    /// What the backend has said.
    pub(super) fn received(&mut self, bytes: &[u8]) {
        self.answer.extend_from_slice(bytes);
    }

    /// What is to be done now. To be asked again after each thing that was done.
    pub(super) fn next(&mut self) -> Next<'a> {
        while let Some((step, rest)) = self.steps.split_first() {
            match step {
                Step::Send(bytes) => {
                    self.steps = rest;
                    self.answer.clear();
                    return Next::Send(bytes);
                }
                step => match meets(step, &self.answer) {
                    Some(true) => self.steps = rest,
                    None if self.answer.len() < LONGEST_ANSWER => return Next::Receive,
                    Some(false) | None => return Next::Failed(self.unexpected()),
                },
            }
        }
        Next::Passed
    }

    /// Why it is no success that the backend has ended the connection.
    pub(super) fn ended(&self) -> String {
        self.unexpected()
    }

    fn unexpected(&self) -> String {
        let shown = &self.answer[..self.answer.len().min(SHOWN)];
        format!("unexpected answer {:?}", String::from_utf8_lossy(shown))
    }
}

/// Whether an answer is as expected. `None` if more of it may decide.
fn meets(step: &Step, answer: &[u8]) -> Option<bool> {
    match step {
        Step::Send(_) => Some(true),
        Step::Begins(expected) => {
            let length = expected.len().min(answer.len());
            match answer[..length] == expected[..length] {
                true => (length == expected.len()).then_some(true),
                false => Some(false),
            }
        }
        Step::Contains(expected) => {
            answer.windows(expected.len()).any(|part| part == expected).then_some(true)
        }
        Step::Matches(pattern) => pattern.is_match(answer).then_some(true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::plan::Pattern;

    /// Runs an exchange with a backend that says each answer in pieces of `piece` bytes after what
    /// is sent, the first before anything is; then it ends the connection.
    fn run(steps: &[Step], answers: &[&str], piece: usize) -> (Vec<String>, Result<(), String>) {
        let mut exchange = Exchange::new(steps);
        let mut answers = answers.iter();
        let mut coming = answers.next().map_or(&b""[..], |answer| answer.as_bytes());
        let mut sent = Vec::new();
        loop {
            match exchange.next() {
                Next::Send(bytes) => {
                    sent.push(String::from_utf8_lossy(bytes).into_owned());
                    coming = answers.next().map_or(&b""[..], |answer| answer.as_bytes());
                }
                Next::Receive if coming.is_empty() => return (sent, Err(exchange.ended())),
                Next::Receive => {
                    let (now, later) = coming.split_at(piece.min(coming.len()));
                    exchange.received(now);
                    coming = later;
                }
                Next::Passed => return (sent, Ok(())),
                Next::Failed(why) => return (sent, Err(why)),
            }
        }
    }

    fn send(text: &str) -> Step {
        Step::Send(text.as_bytes().to_vec())
    }

    fn begins(text: &str) -> Step {
        Step::Begins(text.as_bytes().to_vec())
    }

    fn contains(text: &str) -> Step {
        Step::Contains(text.as_bytes().to_vec())
    }

    fn matches(pattern: &str) -> Step {
        Step::Matches(Pattern::new(pattern).unwrap())
    }

    #[test]
    fn steps_are_passed_in_their_order_however_answers_are_cut() {
        let redis =
            [send("PING"), begins("+PONG"), send("info"), contains("role:master"), send("QUIT")];
        for (steps, answers, passes) in [
            (&redis[..], &["", "+PONG\r\n", "$9\r\nrole:master\r\n"][..], true),
            (&redis, &["", "+PONG\r\n", "$9\r\nrole:slave\r\n"], false),
            (&redis, &["", "-NOAUTH\r\n"], false),
            // What was said before something is sent is no answer to it.
            (&redis, &["+PONG\r\n", "-NOAUTH\r\n"], false),
            (&[begins("220"), send("NOOP"), begins("250")], &["220 x\r\n", "250 y\r\n"], true),
            (&[begins("220"), send("NOOP"), begins("250")], &["554 x\r\n", "250 y\r\n"], false),
            // Those that follow one another look at the same answer.
            (&[contains("b"), contains("a"), begins("a")], &["a b"], true),
            (&[contains("b"), contains("c")], &["a b"], false),
            (&[matches("^role:(master|leader)$")], &["role:master"], true),
            (&[matches("(?m)^2[0-9]{2} ")], &["220-x\r\n220 y\r\n"], true),
            (&[matches("^3")], &["220 x\r\n"], false),
            (&[send("x")], &[], true),
            (&[], &[], true),
        ] {
            for piece in [1, 2, 3, 100] {
                let (sent, result) = run(steps, answers, piece);
                // One that ends with `$` may match before all is there, which is no fault.
                assert_eq!(result.is_ok(), passes, "{steps:?} {answers:?} {piece}: {result:?}");
                if passes {
                    let all = steps.iter().filter(|step| matches!(step, Step::Send(_))).count();
                    assert_eq!(sent.len(), all, "{steps:?}");
                }
            }
        }
    }

    #[test]
    fn an_answer_without_end_is_another() {
        let steps = [contains("never")];
        let mut exchange = Exchange::new(&steps);
        let mut received = 0;
        while exchange.next() == Next::Receive {
            exchange.received(&[b'x'; 1024]);
            received += 1024;
        }
        assert_eq!(received, LONGEST_ANSWER);
        let Next::Failed(why) = exchange.next() else { panic!("it passed") };
        assert!(why.len() < 100, "{why}");
    }
}
