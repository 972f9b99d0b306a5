//! What must hold of any bytes that are read as a frame, for fuzzing.

use crate::protocol::{
    ControlCommand, ControlEvent, REPLY_HEADER_BYTES, REQUEST_HEADER_BYTES, ReplyHeader, RequestHeader,
};

/// Decodes arbitrary bytes as each frame type; every decoded frame must survive another encode and decode.
///
/// # Panics
/// A decoded frame does not survive the round trip.
pub fn read_frames(bytes: &[u8]) {
    if let Some(order) = ControlCommand::decode(bytes) {
        assert_eq!(ControlCommand::decode(&order.encode()), Some(order));
    }
    if let Some(answer) = ControlEvent::decode(bytes) {
        assert_eq!(ControlEvent::decode(&answer.encode()), Some(answer));
    }
    if let Some(Ok(header)) = bytes.get(..REQUEST_HEADER_BYTES).map(TryInto::try_into)
        && let Some(header) = RequestHeader::decode(header)
    {
        assert_eq!(RequestHeader::decode(header.encode()), Some(header));
    }
    if let Some(Ok(header)) = bytes.get(..REPLY_HEADER_BYTES).map(TryInto::try_into)
        && let Some(header) = ReplyHeader::decode(header)
    {
        assert_eq!(ReplyHeader::decode(header.encode()), Some(header));
    }
}
