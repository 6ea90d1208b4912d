//! Whether the Kafka user may write to topics, without writing: the operations that a broker lists
//! for the user of a request. `unsafe` code, because rdkafka does not wrap this request.
//!
//! **It is sound.** Every object of librdkafka that is made here is owned by an [`Owned`], which
//! destroys it once, with its own function, before the client ends: the client is borrowed
//! meanwhile. What a result points to lives as long as its event, and is copied before the event
//! is destroyed. The operations are read as the integers that they are in C, because a value that
//! Rust's enumeration lacks would be undefined behaviour.
#![allow(unsafe_code)]

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char, c_int};
use std::ptr::{self, NonNull};
use std::slice;
use std::time::Duration;

use rdkafka::admin::AdminClient;
use rdkafka_sys::rd_kafka_AclOperation_t::RD_KAFKA_ACL_OPERATION_WRITE;
use rdkafka_sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS;

use crate::config::Config;
use crate::error::Result;
use crate::kafka::admin::blocking;
use crate::kafka::context::Context;
use crate::kafka::{login, survey};

/// Whether the user may write to each of these topics. One of which that cannot be said is left
/// out: a broker before 2.3 lists no operations, and none does for a user who may not describe it.
pub(crate) async fn may_write(
    config: &Config,
    topics: Vec<String>,
    limit: Duration,
) -> Result<HashMap<String, bool>> {
    let (config, token) = (config.clone(), login::token(config).await?);
    blocking(move || {
        let client = survey::client(&config, token.as_deref())?;
        Ok(describe(&client, &topics, limit).unwrap_or_default())
    })
    .await
}

/// Describes the topics together with the user's operations; `None` without an answer in time.
fn describe(
    client: &AdminClient<Context>,
    topics: &[String],
    limit: Duration,
) -> Option<HashMap<String, bool>> {
    let names = topics.iter().map(|topic| CString::new(topic.as_str()));
    let names: Vec<CString> = names.collect::<Result<_, _>>().ok()?;
    let mut pointers: Vec<*const c_char> = names.iter().map(|name| name.as_ptr()).collect();
    let millis = c_int::try_from(limit.as_millis()).unwrap_or(c_int::MAX);
    let client = client.inner().native_ptr();
    // SAFETY: the client lives longer than all that is made from it here, since the caller borrows
    // it. The names live until the end of this function, and librdkafka copies them. The request
    // takes copies of the options and topics, and its own reference on the queue.
    let event = unsafe {
        let queue = rdkafka_sys::rd_kafka_queue_new(client);
        let queue = Owned::new(queue, rdkafka_sys::rd_kafka_queue_destroy)?;
        let options =
            rdkafka_sys::rd_kafka_AdminOptions_new(client, RD_KAFKA_ADMIN_OP_DESCRIBETOPICS);
        let options = Owned::new(options, rdkafka_sys::rd_kafka_AdminOptions_destroy)?;
        rdkafka_sys::rd_kafka_AdminOptions_set_request_timeout(
            options.get(),
            millis,
            ptr::null_mut(),
            0,
        );
        let refused =
            rdkafka_sys::rd_kafka_AdminOptions_set_include_authorized_operations(options.get(), 1);
        let refused = Owned::new(refused, rdkafka_sys::rd_kafka_error_destroy);
        if refused.is_some() {
            return None;
        }
        let collection = rdkafka_sys::rd_kafka_TopicCollection_of_topic_names(
            pointers.as_mut_ptr(),
            pointers.len(),
        );
        let collection = Owned::new(collection, rdkafka_sys::rd_kafka_TopicCollection_destroy)?;
        rdkafka_sys::rd_kafka_DescribeTopics(client, collection.get(), options.get(), queue.get());
        let event = rdkafka_sys::rd_kafka_queue_poll(queue.get(), millis);
        Owned::new(event, rdkafka_sys::rd_kafka_event_destroy)?
    };
    Some(writable(&event))
}

/// The topics of the event whose operations are known, and whether they may be written to.
fn writable(event: &Owned<rdkafka_sys::rd_kafka_event_t>) -> HashMap<String, bool> {
    // SAFETY: the event lives until the end of this function, and with it the result, its topics,
    // their names and their operations. A length is that of the array it was returned with; an
    // array that is absent is a null pointer.
    unsafe {
        let result = rdkafka_sys::rd_kafka_event_DescribeTopics_result(event.get());
        if result.is_null() {
            return HashMap::new();
        }
        let mut count = 0;
        let topics = rdkafka_sys::rd_kafka_DescribeTopics_result_topics(result, &raw mut count);
        if topics.is_null() {
            return HashMap::new();
        }
        let topics = slice::from_raw_parts(topics, count).iter();
        let known = topics.filter_map(|topic| {
            let mut count = 0;
            let operations = rdkafka_sys::rd_kafka_TopicDescription_authorized_operations(
                *topic,
                &raw mut count,
            );
            let name = rdkafka_sys::rd_kafka_TopicDescription_name(*topic);
            if operations.is_null() || name.is_null() {
                return None;
            }
            let operations = slice::from_raw_parts(operations.cast::<u32>(), count);
            let may_write = operations.contains(&(RD_KAFKA_ACL_OPERATION_WRITE as u32));
            let name = CStr::from_ptr(name).to_string_lossy().into_owned();
            Some((name, may_write))
        });
        known.collect()
    }
}

/// An object of librdkafka that is destroyed on drop.
struct Owned<T> {
    object: NonNull<T>,
    destroy: unsafe extern "C" fn(*mut T),
}

impl<T> Owned<T> {
    /// `None` for a null pointer. `object` is owned by nothing else, and `destroy` is its function.
    fn new(object: *mut T, destroy: unsafe extern "C" fn(*mut T)) -> Option<Self> {
        let object = NonNull::new(object)?;
        Some(Owned { object, destroy })
    }

    fn get(&self) -> *mut T {
        self.object.as_ptr()
    }
}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        // SAFETY: the object is owned here, and not used again.
        unsafe { (self.destroy)(self.object.as_ptr()) };
    }
}
