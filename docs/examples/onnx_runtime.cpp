// Detect objects with an exported CornerNet: the C++ standard library and onnxruntime, nothing else.
//
//     g++ -std=c++17 -O2 onnx_runtime.cpp -I ORT/include -L ORT/lib -lonnxruntime -o detect
//     ./detect model.onnx photo.ppm [least score, 0.4]
//
// ORT is onnxruntime's release of its C and C++ API. Images are binary PPM, as `convert photo.jpg
// photo.ppm` makes them, in the size that the network is to see. Prints a line of JSON.

#include <onnxruntime_cxx_api.h>

#include <array>
#include <cstdint>
#include <fstream>
#include <iostream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

struct Image {
  int64_t height, width;
  std::vector<uint8_t> pixels;  // RGB, row by row
};

Image read_ppm(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string kind;
  int64_t width = 0, height = 0, most = 0;
  file >> kind >> width >> height >> most;
  if (!file || kind != "P6" || most != 255 || width < 1 || height < 1)
    throw std::runtime_error(path + " is no binary PPM of 8 bits without comments");
  file.get();
  Image image{height, width, std::vector<uint8_t>(3 * height * width)};
  if (!file.read(reinterpret_cast<char*>(image.pixels.data()), image.pixels.size()))
    throw std::runtime_error(path + " ends too early");
  return image;
}

std::string about(const Ort::Session& session, const char* key) {
  Ort::AllocatorWithDefaultOptions allocator;
  const auto metadata = session.GetModelMetadata();
  char* text = nullptr;  // of the C API, whose name for this is the same in all versions
  Ort::ThrowOnError(
      Ort::GetApi().ModelMetadataLookupCustomMetadataMap(metadata, allocator, key, &text));
  if (!text) throw std::runtime_error(std::string("the file does not tell its ") + key);
  const std::string found = text;
  allocator.Free(text);
  return found;
}

// A JSON list of strings; each stays quoted and escaped, ready for the JSON that is printed.
std::vector<std::string> quoted(const std::string& json) {
  std::vector<std::string> found;
  for (size_t i = 0; i < json.size(); ++i) {
    if (json[i] != '"') continue;
    size_t start = i++;
    for (; json[i] != '"'; ++i) i += json[i] == '\\';
    found.push_back(json.substr(start, i - start + 1));
  }
  return found;
}

void detect(const std::string& model, const std::string& photo, float least) {
  Ort::Env env(ORT_LOGGING_LEVEL_ERROR, "cornernet");
  Ort::Session session(env, model.c_str(), Ort::SessionOptions());
  if (about(session, "raw") == "true") throw std::runtime_error("exported without its soft-NMS");
  const auto classes = quoted(about(session, "classes"));
  const bool bgr = about(session, "input_format") == "BGR";
  const int64_t most = std::stoll(about(session, "max_side"));

  const Image image = read_ppm(photo);
  if (image.height > most || image.width > most)
    throw std::runtime_error(photo + " is larger than the file takes: " + std::to_string(most));
  const int64_t area = image.height * image.width;
  std::vector<float> planes(3 * area);  // (1, 3, H, W), 0..255
  for (int64_t i = 0; i < area; ++i)
    for (int c = 0; c < 3; ++c) planes[c * area + i] = image.pixels[3 * i + (bgr ? 2 - c : c)];

  const std::array<int64_t, 4> shape{1, 3, image.height, image.width};
  auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  auto input = Ort::Value::CreateTensor<float>(
      memory, planes.data(), planes.size(), shape.data(), shape.size());
  const char* inputs[] = {"images"};
  const char* outputs[] = {"boxes", "scores", "classes", "count"};
  const auto found = session.Run(Ort::RunOptions(), inputs, &input, 1, outputs, 4);
  const float* boxes = found[0].GetTensorData<float>();
  const float* scores = found[1].GetTensorData<float>();
  const int64_t* labels = found[2].GetTensorData<int64_t>();
  const int64_t count = found[3].GetTensorData<int64_t>()[0];

  std::cout << "{\"objects\": [";
  for (int64_t i = 0; i < count && scores[i] >= least; ++i) {  // best first
    std::cout << (i ? ", " : "") << "{\"class\": " << classes.at(labels[i])
              << ", \"score\": " << scores[i] << ", \"box\": [";
    for (int k = 0; k < 4; ++k) std::cout << (k ? ", " : "") << boxes[4 * i + k];
    std::cout << "]}";
  }
  std::cout << "]}\n";
}

int main(int argc, char** argv) {
  if (argc < 3 || argc > 4) {
    std::cerr << "usage: " << argv[0] << " model.onnx photo.ppm [least score]\n";
    return 2;
  }
  try {
    std::cout.precision(9);
    detect(argv[1], argv[2], argc > 3 ? std::stof(argv[3]) : 0.4f);
  } catch (const std::exception& error) {
    std::cerr << argv[0] << ": " << error.what() << "\n";
    return 1;
  }
}
