//! Exchange with one job: writes its request, reads its reply, and waits for the fork server's exit report.
//!
//! The result is interpreted by `classify`.
//!
//! Invariant: no job can make the worker hold more than the reply limit, or wait beyond the report timeout.

use std::io::{self, IoSlice};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::{sleep, timeout};

use super::classify::{ExitReport, JobOutput};
use super::fork_server_handle::ForkServerHandle;
use super::limits::Limits;
use super::protocol::{self, ReplyHeader, RequestHeader};
use super::{Product, Request};

/// How long to read from a dead job's socket. The remaining bytes are available at once, unless another
/// process still holds the socket open.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// A job in flight, cancelled when this is dropped.
struct CancelOnDrop<'a>(&'a mut ForkServerHandle);

impl Drop for CancelOnDrop<'_> {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// Creates a connected pair of sockets: the worker's end and the job's.
pub(super) fn socket_pair() -> io::Result<(UnixStream, std::os::unix::net::UnixStream)> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    Ok((UnixStream::from_std(ours)?, theirs))
}

/// Exchanges data with a job that was just started, until its exit. Dropping the future cancels the job.
pub(super) async fn exchange(
    fork_server: &mut ForkServerHandle,
    mut data: UnixStream,
    request: Request,
    limits: &Limits,
) -> (JobOutput, ExitReport) {
    let began = Instant::now();
    let cancel_on_drop = CancelOnDrop(fork_server);
    let report_timeout = sleep(limits.report_timeout());
    let transfer = transfer(&mut data, request, limits.reply_bytes);
    tokio::pin!(report_timeout, transfer);
    let mut output = None;
    let exit_report = loop {
        tokio::select! {
            received = &mut transfer, if output.is_none() => {
                if !matches!(received, JobOutput::Reply { .. }) {
                    cancel_on_drop.0.cancel(); // no reply can follow; do not wait for the deadline
                }
                output = Some(received);
            }
            answer = cancel_on_drop.0.wait_for_report() => break match answer {
                Ok(Ok(report)) => ExitReport::Ended(report),
                Ok(Err(errno)) => ExitReport::ForkFailed(errno),
                Err(error) => ExitReport::ForkServerLost { why: error.to_string(), wall: began.elapsed() },
            },
            () = &mut report_timeout => {
                cancel_on_drop.0.kill();
                break ExitReport::ForkServerLost { why: "it did not report in time".to_owned(), wall: began.elapsed() };
            }
        }
    };
    let output = match output {
        Some(output) => output,
        None => timeout(DRAIN_TIMEOUT, transfer).await.unwrap_or(JobOutput::Empty),
    };
    (output, exit_report)
}

/// Writes the request and reads the reply; every error is mapped to an output.
async fn transfer(data: &mut UnixStream, request: Request, cap: u64) -> JobOutput {
    // A job that dies during the write has often written its reply already, so read on.
    let _ = write_request(data, request).await;
    read_reply(data, cap).await.unwrap_or(JobOutput::Malformed("it broke the connection"))
}

async fn write_request(data: &mut UnixStream, request: Request) -> io::Result<()> {
    let [options, a, b] = [&request.options, &request.a, &request.b].map(|part| part.len() as u64);
    let header = RequestHeader { options, a, b }.encode().to_vec();
    let parts = [header, request.options, request.a, request.b];
    // What is small goes in one call, and wakes the job once.
    let mut sent = data.write_vectored(&parts.each_ref().map(|part| IoSlice::new(part))).await?;
    for part in parts {
        let rest = part.get(sent..).unwrap_or_default();
        data.write_all(rest).await?;
        sent = sent.saturating_sub(part.len()); // frees the part: the job has its own copy
    }
    Ok(())
}

async fn read_reply(data: &mut UnixStream, cap: u64) -> io::Result<JobOutput> {
    let mut ready = [0];
    if data.read(&mut ready).await? == 0 {
        return Ok(JobOutput::NotReady);
    }
    if ready != [protocol::READY] {
        return Ok(JobOutput::Malformed("its first byte is not the ready byte"));
    }
    let mut header = Vec::with_capacity(protocol::REPLY_HEADER_BYTES);
    data.take(protocol::REPLY_HEADER_BYTES as u64).read_to_end(&mut header).await?;
    let Ok(header) = <[u8; protocol::REPLY_HEADER_BYTES]>::try_from(header.as_slice()) else {
        return Ok(if header.is_empty() {
            JobOutput::Empty
        } else {
            JobOutput::Malformed("its header is truncated")
        });
    };
    let Some(header) = ReplyHeader::decode(header) else {
        return Ok(JobOutput::Malformed("its header is invalid"));
    };
    for (bytes, most) in [(header.answer, protocol::ANSWER_MAX_BYTES), (header.attachment, cap)] {
        if bytes > most {
            return Ok(JobOutput::TooLarge { bytes, most });
        }
    }
    let Some(answer) = read_part(data, header.answer).await? else {
        return Ok(JobOutput::Malformed("its answer is truncated"));
    };
    let Some(attachment) = read_part(data, header.attachment).await? else {
        return Ok(JobOutput::Malformed("its attachment is truncated"));
    };
    if data.read(&mut [0]).await? > 0 {
        return Ok(JobOutput::Malformed("there is data after its end"));
    }
    Ok(JobOutput::Reply { code: header.code, product: Product { answer, attachment } })
}

/// Reads `len` bytes, which are within their limit; `None` if there are fewer.
async fn read_part(data: &mut UnixStream, len: u64) -> io::Result<Option<Vec<u8>>> {
    let mut part = Vec::with_capacity(usize::try_from(len).unwrap_or(0));
    data.take(len).read_to_end(&mut part).await?;
    Ok((part.len() as u64 == len).then_some(part))
}
