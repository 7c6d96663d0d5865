"""The two pieces of protobuf's wire format that the writer puts together itself."""

import functools


@functools.lru_cache(maxsize=65536)
def varint(number: int) -> bytes:
    """A length as protobuf writes it: seven bits per byte, the lowest first.

    Args:
        number: Not negative.

    Returns:
        One byte per seven bits.
    """
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def delimited(key: bytes, body: bytes) -> bytes:
    """A length-delimited field: a string, bytes, or a message.

    Args:
        key: Field number and wire type.
        body: The field's value.

    Returns:
        Key, length, value.
    """
    return key + varint(len(body)) + body
