//! What a child that a page took over may answer: no answer is believed beyond what it may say, and with all that is
//! read of it none takes more memory than three of the largest.

#![expect(clippy::unwrap_used, reason = "in a test a surprise is a failure")]

use serde_json::{Value, json};
use wm_analyzer::analysis::child;
use wm_analyzer::job::analysis_request::{AnalysisReply, AnalysisRequest, BodyInput};
use wm_analyzer::sandbox::hooks;
use wm_analyzer::sandbox::{ANSWER_MAX_BYTES, heap};

#[global_allocator]
static HEAP: heap::CountingAllocator = heap::CountingAllocator;

/// A reply of a real analysis, with every kind of part.
fn honest_reply() -> Value {
    let page = |word: &str| {
        format!(
            "<title>{word}</title><meta name=author content={word}><p>{word} text <a href=/{word}>link</a><a href=/x{word}>{word}</a>"
        )
    };
    let request = AnalysisRequest {
        from: BodyInput::default(),
        to: BodyInput::default(),
        max_decoded_bytes: 1 << 20,
        max_result_bytes: 0,
    };
    let request = serde_json::to_vec(&request).unwrap();
    let (reply, _) = child::answer(&request, page("old").into(), page("new").into(), |_| {});
    let reply: Value = serde_json::from_slice(&reply).unwrap();
    assert!(read(&serde_json::to_vec(&reply).unwrap()).is_some(), "{reply}");
    reply
}

fn read(answer: &[u8]) -> Option<AnalysisReply> {
    AnalysisReply::read(answer).ok()
}

/// Every place in a value, as JSON pointers.
fn places(value: &Value, at: &str, found: &mut Vec<String>) {
    found.push(at.to_owned());
    match value {
        Value::Object(fields) => {
            fields.iter().for_each(|(name, inner)| places(inner, &format!("{at}/{name}"), found))
        }
        Value::Array(list) => {
            list.iter().enumerate().for_each(|(n, inner)| places(inner, &format!("{at}/{n}"), found))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// The reply with something else at each place: `None` takes the field away.
fn mutations(honest: &Value) -> Vec<(String, Vec<u8>)> {
    let room = usize::try_from(ANSWER_MAX_BYTES).unwrap() - 64 * 1024;
    let mut all_places = Vec::new();
    places(honest, "", &mut all_places);
    let long = Value::String("x".repeat(room));
    let escaped = Value::String("\u{1}".repeat(room / 6));
    let wide = Value::Array(vec![json!([]); room / 3]);
    let steps = Value::Array(vec![json!([0, "a"]); room / 8]);
    let hunks = Value::Array(vec![json!({"at": [0, 0], "steps": [[1, "a"]]}); room / 34]);
    let others = [
        Value::Null,
        json!(-1),
        json!(1e300),
        json!(u64::MAX),
        json!("77"),
        json!({"unknown": 1}),
        long,
        escaped,
        wide,
        steps,
        hunks,
    ];
    let mut made = Vec::new();
    for place in &all_places {
        for (n, other) in others.iter().enumerate() {
            let mut mutated = honest.clone();
            *mutated.pointer_mut(place).unwrap() = other.clone();
            made.push((format!("{place} as other {n}"), serde_json::to_vec(&mutated).unwrap()));
        }
        let mut more = honest.clone();
        if let Some(fields) = more.pointer_mut(place).unwrap().as_object_mut() {
            fields.insert("uuid".to_owned(), json!("x".repeat(room)));
            made.push((format!("{place} with a field more"), serde_json::to_vec(&more).unwrap()));
        }
        if let Some((parent, field)) = place.rsplit_once('/')
            && let Some(fields) = more.pointer_mut(parent).unwrap().as_object_mut()
        {
            fields.remove(field);
            made.push((format!("{place} taken away"), serde_json::to_vec(&more).unwrap()));
        }
    }
    // What no value is.
    made.push(("nested".to_owned(), "[".repeat(room).into_bytes()));
    made.push(("nested objects".to_owned(), "{\"a\":".repeat(room / 5).into_bytes()));
    made.push((
        "twice".to_owned(),
        [serde_json::to_vec(honest).unwrap(), serde_json::to_vec(honest).unwrap()].concat(),
    ));
    made.push(("no text".to_owned(), vec![0xff; room]));
    made
}

/// The largest that is accepted: as many of the shortest steps as may be.
fn fullest(honest: &Value) -> Vec<u8> {
    let hunk = json!({"at": [0, 0], "steps": vec![json!([1, "a"]); 16]});
    let mut full = honest.clone();
    for diff in ["html_text_dmp", "html_source_dmp"] {
        full["analysed"]["changes"][diff]["hunks"] = Value::Array(vec![hunk.clone(); 256]);
    }
    serde_json::to_vec(&full).unwrap()
}

#[test]
fn no_reply_is_believed_beyond_what_it_may_say_or_costs_more_than_three_of_the_largest() {
    let honest = honest_reply();
    let full = fullest(&honest);
    assert!(read(&full).is_some() && full.len() as u64 <= ANSWER_MAX_BYTES, "{}", full.len());
    let mutations = mutations(&honest);
    let count = mutations.len();
    assert!(count >= 200, "{count}");
    let (mut believed, mut most) = (Vec::new(), 0);
    for (what, answer) in [("the fullest".to_owned(), full)].into_iter().chain(mutations) {
        let (reply, peak) = hooks::peak_heap_of(|| read(&answer));
        let bytes = peak + answer.len() as u64;
        assert!(bytes <= 3 * ANSWER_MAX_BYTES, "{what}: {} bytes cost {peak} more", answer.len());
        most = most.max(bytes);
        if let Some(reply) = reply {
            // What is read is what the child may say: it is written again as it was, field by field.
            let again: Value = serde_json::to_value(&reply).unwrap();
            let said: Value = serde_json::from_slice(&answer).unwrap();
            assert!(holds(&said, &again), "{what}: {said} was read as {again}");
            believed.push(what);
        }
    }
    println!("{} of {count} replies believed: {believed:?}; at most {most} bytes", believed.len());
}

/// Whether everything that is said, but absent and empty values, was read.
fn holds(said: &Value, read: &Value) -> bool {
    match (said, read) {
        (Value::Object(said), Value::Object(read)) => said.iter().all(|(name, value)| match read.get(name) {
            Some(read) => holds(value, read),
            None => value.is_null() || *value == json!([]) || *value == json!(0),
        }),
        (Value::Array(said), Value::Array(read)) => {
            said.len() == read.len() && said.iter().zip(read).all(|(said, read)| holds(said, read))
        }
        (Value::Number(said), Value::Number(read)) => said.as_f64() == read.as_f64(),
        (said, read) => said == read,
    }
}
