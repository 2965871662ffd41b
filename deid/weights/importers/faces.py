"""Every format of encoders and judges, and where their networks are built."""

from collections.abc import Mapping

from deid.weights.importers.base import Format
from deid.weights.importers.dlib_faces import DLIB_FORMATS
from deid.weights.importers.efficientnet import EFFICIENTNET_FORMATS
from deid.weights.importers.facenet import FACENET_FORMATS
from deid.weights.importers.inception import INCEPTION_FORMATS
from deid.weights.importers.insightface import INSIGHTFACE_FORMATS
from deid.weights.importers.mobilefacenet import MOBILEFACENET_FORMATS
from deid.weights.importers.perceptual import LPIPS_FORMATS
from deid.weights.importers.tfjs_faces import TFJS_FORMATS
from deid.weights.importers.vggface2 import VGGFACE2_FORMATS

FACE_FORMATS: tuple[Format, ...] = (
    *VGGFACE2_FORMATS,
    *INSIGHTFACE_FORMATS,
    *FACENET_FORMATS,
    *MOBILEFACENET_FORMATS,
    *INCEPTION_FORMATS,
    *LPIPS_FORMATS,
    *TFJS_FORMATS,
    *DLIB_FORMATS,
    *EFFICIENTNET_FORMATS,
)

FACE_NETWORKS: Mapping[str, str] = {
    "vggface2_resnet50": "deid.nets.vggface2:VGGFace2ResNet",
    "iresnet": "deid.nets.iresnet:IResNet",
    "inception_resnet_v1": "deid.nets.inception_resnet:InceptionResnetV1",
    "mobilefacenet": "deid.nets.mobilefacenet:MobileFaceNetRecognizer",
    "mobilefacenet_tf": "deid.nets.mobilefacenet_tf:MobileFaceNetTf",
    "mobilefacenet68": "deid.nets.mobilefacenet68:MobileFaceNetLandmarks",
    "inception_v3": "deid.nets.inception:inception_v3",
    "fid_inception": "deid.nets.inception:fid_inception",
    "lpips": "deid.nets.perceptual:lpips",
    "hse_face": "deid.nets.hse_face:HseFaceNet",
    "mobile_face": "deid.nets.mobile_face:MobileFace",
    "dlib_resnet": "deid.nets.dlib_resnet:DlibResNet",
    "face_landmark68": "deid.nets.face_api:FaceLandmark68",
    "face_api_expression": "deid.nets.face_api:FaceApiExpression",
    "face_mesh": "deid.nets.face_mesh:FaceMesh",
    "efficientnet_lite0": "deid.nets.efficientnet_lite:EfficientNetLite0",
}
"""A network's name → where its builder is, `module:function`, imported when it is built."""
