//! Samples: batches that the tests of both codecs and of the partition share.
