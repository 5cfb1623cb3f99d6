"""The generated code is that of `edge.proto`."""

import subprocess
import sys
from pathlib import Path

from google.protobuf import descriptor_pb2

from gelato_jax.remote import edge_pb2


def test_the_generated_code_is_of_the_protocol(tmp_path):
    proto = Path(edge_pb2.__file__).with_name("edge.proto")
    name = f"gelato_jax/remote/{proto.name}"
    root, out = proto.parents[2], tmp_path / "set"
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", "-I", str(root), f"--descriptor_set_out={out}", str(root / name)],
        check=True,
    )
    (file,) = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file
    for message in file.message_type:
        for field in message.field:
            field.ClearField("json_name")  # the compiler fills it in here alone
    assert file == descriptor_pb2.FileDescriptorProto.FromString(edge_pb2.DESCRIPTOR.serialized_pb)
