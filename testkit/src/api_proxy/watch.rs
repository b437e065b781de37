//! Forwards the events of a watch and applies faults to them.

use std::{collections::VecDeque, io, sync::Arc, time::Duration};

use axum::body::{Body, Bytes};
use futures::{Stream, StreamExt, stream};
use tokio::time::sleep;

use super::{State, fault::Effect, log::Open};

const FLUSH: Duration = Duration::from_millis(20);

struct Events {
    state: Arc<State>,
    /// True if events are counted and faults apply to them.
    is_counted: bool,
    source: axum::body::BodyDataStream,
    /// The received part of an incomplete line.
    partial: Vec<u8>,
    lines: VecDeque<Bytes>,
    is_cut: bool,
    _open: Open,
}

/// Returns the events of `source` with faults applied. Ends with an error, which closes the
/// connection, if a fault requires it.
pub(super) fn events(
    state: Arc<State>,
    is_counted: bool,
    source: Body,
    open: Open,
) -> impl Stream<Item = io::Result<Bytes>> + Send {
    let (source, partial, lines) = (source.into_data_stream(), Vec::new(), VecDeque::new());
    let events = Events { state, is_counted, source, partial, lines, is_cut: false, _open: open };
    stream::unfold(events, |mut events| async { Some((events.next().await?, events)) })
}

impl Events {
    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        if self.is_cut {
            return None;
        }
        let Some(line) = self.line().await else { return Some(self.cut().await) };
        let line = line?;
        if !self.is_counted || line.starts_with(br#"{"type":"BOOKMARK""#) {
            return Some(Ok(line));
        }
        match self.state.next_event_effect() {
            Some(Effect::Delay(delay)) => {
                sleep(delay).await;
                Some(Ok(line))
            }
            Some(Effect::Repeat) => Some(Ok([line.clone(), line].concat().into())),
            Some(Effect::DropEvent) => {
                self.state.expire_next_watch();
                Some(self.cut().await)
            }
            Some(_) => Some(self.cut().await),
            None => Some(Ok(line)),
        }
    }

    async fn cut(&mut self) -> io::Result<Bytes> {
        self.is_cut = true;
        // Preceding events are flushed while the stream is idle.
        sleep(FLUSH).await;
        Err(io::ErrorKind::ConnectionReset.into())
    }

    /// Returns the next whole line, `Some(None)` at the end of the stream, or `None` if either side
    /// of the connection is cut.
    async fn line(&mut self) -> Option<Option<Bytes>> {
        loop {
            if let Some(line) = self.lines.pop_front() {
                return Some(Some(line));
            }
            let chunk = tokio::select! {
                chunk = self.source.next() => chunk,
                () = self.state.wait_until_cut() => return None,
            };
            let Some(chunk) = chunk else { return Some(None) };
            self.partial.extend_from_slice(&chunk.ok()?);
            while let Some(end) = self.partial.iter().position(|byte| *byte == b'\n') {
                self.lines.push_back(self.partial.drain(..=end).collect());
            }
        }
    }
}
