//! Reads the WebSocket frames that go by: the texts that daemon and relay say to each other.

/// Both directions of one connection.
#[derive(Debug, Default)]
pub struct Tap([Side; 2]);

#[derive(Debug, Default)]
struct Side {
    bytes: Vec<u8>,
    upgraded: bool,
}

impl Tap {
    /// The texts that are whole with these bytes of a direction.
    pub fn take(&mut self, way: usize, bytes: &[u8]) -> Vec<String> {
        let side = &mut self.0[way];
        side.bytes.extend_from_slice(bytes);
        if !side.upgraded {
            let end = side.bytes.windows(4).position(|four| four == b"\r\n\r\n");
            let Some(end) = end else { return Vec::new() };
            side.bytes.drain(..end + 4);
            side.upgraded = true;
        }
        let mut texts = Vec::new();
        while let Some((took, text)) = frame(&side.bytes) {
            side.bytes.drain(..took);
            texts.extend(text);
        }
        texts
    }
}

/// The first whole frame: its length, and its text where it is one.
fn frame(bytes: &[u8]) -> Option<(usize, Option<String>)> {
    let [first, second, ..] = *bytes else { return None };
    let (mut at, short) = (2, usize::from(second & 0x7f));
    let len = match short {
        126 => {
            at = 4;
            usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?))
        }
        127 => {
            at = 10;
            usize::try_from(u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?)).ok()?
        }
        short => short,
    };
    let mask = if second & 0x80 == 0 { None } else { Some(bytes.get(at..at + 4)?) };
    let begin = at + if mask.is_some() { 4 } else { 0 };
    let body = bytes.get(begin..begin + len)?;
    let body = match mask {
        Some(mask) => body.iter().enumerate().map(|(n, byte)| byte ^ mask[n % 4]).collect(),
        None => body.to_vec(),
    };
    let text = (first & 0x0f == 1).then(|| String::from_utf8_lossy(&body).into_owned());
    Some((begin + len, text))
}
