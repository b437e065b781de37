//! The events of a watch on their way to the client, and what goes wrong with them.

use std::{collections::VecDeque, io, sync::Arc, time::Duration};

use axum::body::{Body, Bytes};
use futures::{Stream, StreamExt, stream};
use tokio::time::sleep;

use super::{State, fault::Effect, log::Open};

const FLUSH: Duration = Duration::from_millis(20);

struct Events {
    state: Arc<State>,
    source: axum::body::BodyDataStream,
    /// What has come in and is no whole line yet.
    partial: Vec<u8>,
    lines: VecDeque<Bytes>,
    is_cut: bool,
    _open: Open,
}

/// The same events, but for the faults planted; ends with an error, and so cuts the connection, where one says so.
pub(super) fn events(
    state: Arc<State>,
    source: Body,
    open: Open,
) -> impl Stream<Item = io::Result<Bytes>> + Send {
    let (source, partial, lines) = (source.into_data_stream(), Vec::new(), VecDeque::new());
    let events = Events { state, source, partial, lines, is_cut: false, _open: open };
    stream::unfold(events, |mut events| async { Some((events.next().await?, events)) })
}

impl Events {
    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        if self.is_cut {
            return None;
        }
        let Some(line) = self.line().await else { return Some(self.cut().await) };
        let line = line?;
        if line.starts_with(br#"{"type":"BOOKMARK""#) {
            return Some(Ok(line));
        }
        match self.state.strike_event() {
            Some(Effect::Delay(delay)) => {
                sleep(delay).await;
                Some(Ok(line))
            }
            Some(Effect::Repeat) => Some(Ok([line.clone(), line].concat().into())),
            Some(Effect::Lose) => {
                self.state.say_gone();
                Some(self.cut().await)
            }
            Some(_) => Some(self.cut().await),
            None => Some(Ok(line)),
        }
    }

    async fn cut(&mut self) -> io::Result<Bytes> {
        self.is_cut = true;
        // What came before goes out while nothing else is at hand.
        sleep(FLUSH).await;
        Err(io::ErrorKind::ConnectionReset.into())
    }

    /// The next whole line; `Some(None)` at the end, and `None` where the connection, to either side, is cut.
    async fn line(&mut self) -> Option<Option<Bytes>> {
        loop {
            if let Some(line) = self.lines.pop_front() {
                return Some(Some(line));
            }
            let chunk = tokio::select! {
                chunk = self.source.next() => chunk,
                () = self.state.cut_off() => return None,
            };
            let Some(chunk) = chunk else { return Some(None) };
            self.partial.extend_from_slice(&chunk.ok()?);
            while let Some(end) = self.partial.iter().position(|byte| *byte == b'\n') {
                self.lines.push_back(self.partial.drain(..=end).collect());
            }
        }
    }
}
