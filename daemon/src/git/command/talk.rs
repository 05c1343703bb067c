//! What is said to a running git and heard from it, within bounds.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::Child;

/// The most standard output kept: a status of half a million long paths fits.
pub(super) const MAX_STDOUT: u64 = 64 * 1024 * 1024;

/// The most of standard error kept, from its end: git's reason stands last.
const STDERR_TAIL: usize = 8 * 1024;

/// Feeds the child, reads it to its end, and reaps it last, so that its group id stays its own.
pub(super) async fn converse(
    child: &mut Child,
    input: &[u8],
) -> io::Result<(Vec<u8>, String, std::process::ExitStatus)> {
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let feed = async {
        match stdin {
            Some(mut pipe) => match pipe.write_all(input).await {
                // a command that reads no further says why by its exit code
                Err(cause) if cause.kind() != io::ErrorKind::BrokenPipe => Err(cause),
                _ => Ok(()),
            },
            None => Ok(()),
        }
    };
    let read = async {
        let mut bytes = Vec::new();
        if let Some(pipe) = stdout {
            pipe.take(MAX_STDOUT + 1).read_to_end(&mut bytes).await?;
        }
        Ok(bytes)
    };
    let listen = async {
        match stderr {
            Some(pipe) => tail(pipe).await,
            None => Ok(String::new()),
        }
    };
    let ((), stdout, stderr) = tokio::try_join!(feed, read, listen)?;
    Ok((stdout, stderr, child.wait().await?))
}

async fn tail(mut pipe: impl AsyncRead + Unpin) -> io::Result<String> {
    let mut kept = Vec::new();
    let mut chunk = [0_u8; 4096];
    loop {
        let count = pipe.read(&mut chunk).await?;
        if count == 0 {
            return Ok(String::from_utf8_lossy(&kept).into_owned());
        }
        kept.extend_from_slice(&chunk[..count]);
        let surplus = kept.len().saturating_sub(STDERR_TAIL);
        kept.drain(..surplus);
    }
}
