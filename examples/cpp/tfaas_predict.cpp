// Request the scores of events from a TFaaS server, with libcurl and nlohmann-json.
//
//   apt-get install g++ libcurl4-openssl-dev nlohmann-json3-dev
//   g++ -std=c++17 -O2 tfaas_predict.cpp -o tfaas_predict -lcurl
//   ./tfaas_predict http://localhost:8083 htautau input.json
//
// input.json: {"keys": ["MET_pt", "Jet_pt"], "values": [[31.2, [64.0, 40.5]], [12.0, []]]}; null is a missing value.
// It prints the scores of each event, one event per line; null for an event that fails the cuts of the model.
// $BEARER_TOKEN is the token for a private server.

#include <curl/curl.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>

using nlohmann::json;

static size_t append(char* data, size_t, size_t size, void* text) {
    static_cast<std::string*>(text)->append(data, size);
    return size;
}

// Send a request to POST /json; return the response, or throw with the server's reason.
static json predict(const std::string& url, const json& request) {
    const std::string body = request.dump();
    std::string answer;
    std::unique_ptr<CURL, decltype(&curl_easy_cleanup)> curl(curl_easy_init(), curl_easy_cleanup);
    curl_slist* list = curl_slist_append(nullptr, "Content-Type: application/json");
    if (const char* token = std::getenv("BEARER_TOKEN"))
        list = curl_slist_append(list, ("Authorization: Bearer " + std::string(token)).c_str());
    std::unique_ptr<curl_slist, decltype(&curl_slist_free_all)> headers(list, curl_slist_free_all);
    curl_easy_setopt(curl.get(), CURLOPT_URL, (url + "/json").c_str());
    curl_easy_setopt(curl.get(), CURLOPT_HTTPHEADER, headers.get());
    curl_easy_setopt(curl.get(), CURLOPT_POSTFIELDS, body.c_str());
    curl_easy_setopt(curl.get(), CURLOPT_POSTFIELDSIZE_LARGE, static_cast<curl_off_t>(body.size()));
    curl_easy_setopt(curl.get(), CURLOPT_WRITEFUNCTION, append);
    curl_easy_setopt(curl.get(), CURLOPT_WRITEDATA, &answer);
    curl_easy_setopt(curl.get(), CURLOPT_TIMEOUT, 60L);
    const CURLcode code = curl_easy_perform(curl.get());
    if (code != CURLE_OK) throw std::runtime_error(url + ": " + curl_easy_strerror(code));
    const json parsed = json::parse(answer);
    if (parsed.is_object() && parsed.contains("error")) throw std::runtime_error(parsed["error"].get<std::string>());
    return parsed;
}

int main(int argc, char** argv) try {
    if (argc != 4) throw std::invalid_argument("usage: tfaas_predict URL MODEL input.json");
    std::ifstream file(argv[3]);
    if (!file) throw std::runtime_error("cannot read " + std::string(argv[3]));
    json request = json::parse(file);
    request["model"] = argv[2];
    const json& values = request.at("values");
    const bool many = std::all_of(values.begin(), values.end(), [](const json& row) { return row.is_array(); });
    const json scores = predict(argv[1], request);
    for (const json& event : many ? scores : json::array({scores})) std::cout << event.dump() << "\n";
    return 0;
} catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << "\n";
    return 1;
}
