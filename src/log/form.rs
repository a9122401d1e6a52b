//! How an event looks: for a terminal, for the journal, for a file, or for a program.

use std::fmt;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::{self, Format, Full, Json, Writer};
use tracing_subscriber::fmt::time::SystemTime;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Who reads events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Reader {
    /// A file, a pipe: everything, and no colours.
    Plain,
    /// Somebody at a terminal: colours.
    Terminal,
    /// The journal, which has the time, and takes the priority from `<N>` before each line
    /// (sd-daemon(3)).
    Journal,
}

impl Reader {
    /// Who reads the standard error that the process was started with.
    pub fn of_stderr() -> Self {
        let stderr = io::stderr();
        if stderr.is_terminal() {
            // <https://no-color.org>
            let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
            return if plain { Self::Plain } else { Self::Terminal };
        }
        let found = stderr.as_fd().try_clone_to_owned().map(std::fs::File::from);
        let Ok(found) = found.and_then(|file| file.metadata()) else { return Self::Plain };
        // Inherited by whatever a service starts: it has to be about this very stream
        // (systemd.exec(5)).
        let journal = std::env::var("JOURNAL_STREAM").unwrap_or_default();
        if journal == format!("{}:{}", found.dev(), found.ino()) {
            Self::Journal
        } else {
            Self::Plain
        }
    }
}

/// Who reads at the moment.
#[derive(Clone, Debug)]
pub struct Present(Arc<AtomicU8>);

impl Present {
    /// This one.
    pub fn new(reader: Reader) -> Self {
        Self(Arc::new(AtomicU8::new(reader as u8)))
    }

    /// From now on this one.
    pub fn set(&self, reader: Reader) {
        self.0.store(reader as u8, Ordering::Relaxed);
    }

    /// This one.
    pub fn get(&self) -> Reader {
        match self.0.load(Ordering::Relaxed) {
            reader if reader == Reader::Terminal as u8 => Reader::Terminal,
            reader if reader == Reader::Journal as u8 => Reader::Journal,
            _ => Reader::Plain,
        }
    }
}

/// Events as `log.format` says, fit for who reads them.
pub struct Form {
    reader: Present,
    json: bool,
    timed: Format<Full, SystemTime>,
    untimed: Format<Full, ()>,
    object: Format<Json, SystemTime>,
}

impl Form {
    /// As JSON, or as text.
    pub fn new(reader: Present, json: bool) -> Self {
        let timed = format::format().with_target(false);
        let untimed = timed.clone().without_time();
        let object = timed.clone().json().flatten_event(true);
        Self { reader, json, timed, untimed, object }
    }
}

impl<S, N> FormatEvent<S, N> for Form
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let reader = self.reader.get();
        let mut line = String::new();
        let into = Writer::new(&mut line);
        match (self.json, reader) {
            // Whole objects, whoever reads: their time is one of their keys.
            (true, _) => self.object.format_event(context, into, event)?,
            (false, Reader::Plain) => self.timed.format_event(context, into, event)?,
            (false, Reader::Journal) => self.untimed.format_event(context, into, event)?,
            // Unlike `into`, the layer's own writer takes colours.
            (false, Reader::Terminal) => return self.timed.format_event(context, writer, event),
        }
        if reader != Reader::Journal {
            return writer.write_str(&line);
        }
        // The errors of a configuration are an event of many lines, each an entry of its own.
        let priority = priority(*event.metadata().level());
        line.lines().try_for_each(|line| writeln!(writer, "<{priority}>{line}"))
    }
}

/// The priority of syslog.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Mutex;

    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl Write for Page {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// An event of two lines as each reader gets it, without the time.
    fn written(reader: Reader, json: bool) -> String {
        let page = Page::default();
        let into = page.clone();
        let layer = tracing_subscriber::fmt::layer()
            .with_ansi(true)
            .event_format(Form::new(Present::new(reader), json))
            .with_writer(move || into.clone());
        let subscriber = tracing_subscriber::registry().with(layer);
        tracing::subscriber::with_default(subscriber, || tracing::warn!(n = 1, "one\ntwo"));
        let bytes = page.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn each_reader_gets_what_it_can_use() {
        let plain = written(Reader::Plain, false);
        assert!(plain.ends_with("Z  WARN one\ntwo n=1\n"), "{plain:?}");
        assert_eq!(written(Reader::Journal, false), "<4> WARN one\n<4>two n=1\n");
        let coloured = written(Reader::Terminal, false);
        assert!(coloured.contains("\x1b[33m WARN\x1b[0m"), "{coloured:?}");
    }

    #[test]
    fn an_object_is_whole_whoever_reads() {
        for (reader, before) in [(Reader::Plain, ""), (Reader::Journal, "<4>")] {
            let text = written(reader, true);
            let object = text.strip_prefix(before).unwrap();
            let object: serde_json::Value = serde_json::from_str(object).unwrap();
            assert_eq!((&object["message"], &object["n"]), (&"one\ntwo".into(), &1.into()));
            assert!(object["timestamp"].is_string(), "{text}");
        }
        assert!(!written(Reader::Terminal, true).contains('\x1b'));
    }
}
